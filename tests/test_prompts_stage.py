"""Prompt sets: from a collection, from lists, and back from disk."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.generation import PromptSet
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Artefact
from tastemaker.stages import prompts
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.prompt_sets import read_prompt_set
from tastemaker.store.rundir import StepDir


def _run(folder: Path, inputs: dict[str, Path] | None = None, **values: object) -> PromptSet:
    given = {name: Artefact(name, path, "key") for name, path in (inputs or {}).items()}
    config = prompts.Config(**values, **{name: name for name in given})
    manifest = prompts.run(config, given, StepDir(folder / "step", key="k"))
    found = read_prompt_set(folder / "step" / manifest.outputs["prompts"])
    assert manifest.counts["prompts"] == len(found.prompts)
    return found


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    records = []
    for code, name, split in (("1F34E", "red apple", "tune"), ("1F408", "cat", "heldout")):
        for style in ("flat", "line"):
            attributes = (("name", name), ("style", style), ("split", split))
            records.append(
                ImageRecord(
                    id=f"{code}-{style}",
                    path=f"{code}-{style}.png",
                    source=style,
                    key=code,
                    size=None,
                    captions=(name, f"{name}, {style} style"),
                    attributes=attributes,
                )
            )
    records.append(ImageRecord("bad", "", "x", "bad", None, captions=("cat",), status="error"))
    Catalogue(tmp_path / "collection").append_base(records)
    return tmp_path / "collection"


def test_pictures_with_one_caption_give_one_prompt(tmp_path: Path, collection: Path) -> None:
    found = _run(tmp_path, {"collection": collection}, where={"split": ("heldout",)}, name="held")
    (prompt,) = found.prompts
    assert (prompt.id, prompt.text) == ("1F408", "cat")
    # The style differs between the two pictures, so it says nothing of the prompt.
    assert dict(prompt.attributes) == {"name": "cat", "split": "heldout"}
    assert found.name == "held"


def test_captions_that_name_the_style_keep_it_and_get_ids_of_their_own(
    tmp_path: Path, collection: Path
) -> None:
    found = _run(tmp_path, {"collection": collection}, caption=1)
    assert len({prompt.id for prompt in found.prompts}) == 4
    styles = {prompt.text: prompt.attribute("style") for prompt in found.prompts}
    assert styles["cat, line style"] == "line"
    assert styles["red apple, flat style"] == "flat"


def test_nothing_that_fits_is_an_error(tmp_path: Path, collection: Path) -> None:
    with pytest.raises(InputError, match="no prompt where"):
        _run(tmp_path, {"collection": collection}, where={"split": ("other",)})
    with pytest.raises(InputError, match="no prompt"):
        _run(tmp_path, {"collection": collection}, caption=7)


def test_lists_in_every_format_give_the_same_prompts(tmp_path: Path) -> None:
    texts = ["a cat", 'a "red" car', "ein Fuß, blau"]
    rows = [{"Prompt": text, "Category": "x"} for text in texts]
    (tmp_path / "a.txt").write_text("\ufeff" + "\n".join(texts) + "\n\n", encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(texts))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "a.tsv").write_text(
        "Prompt\tCategory\n" + 'a cat\tx\n"a ""red"" car"\tx\n ein Fuß, blau \tx\n'
    )
    (tmp_path / "a.csv").write_text('id,Prompt\n1,a cat\n2,"a ""red"" car"\n3,"ein Fuß, blau"\n')
    plain = _run(tmp_path, {"file": tmp_path / "a.txt"})
    assert sorted(prompt.text for prompt in plain.prompts) == sorted(texts)
    assert _run(tmp_path, {"file": tmp_path / "a.json"}).hash == plain.hash
    assert _run(tmp_path, texts=tuple(texts)).hash == plain.hash
    table = _run(tmp_path, {"file": tmp_path / "a.tsv"})
    assert [(p.id, p.text) for p in table.prompts] == [(p.id, p.text) for p in plain.prompts]
    assert {prompt.attribute("category") for prompt in table.prompts} == {"x"}
    assert _run(tmp_path, {"file": tmp_path / "a.jsonl"}).hash == table.hash
    named = _run(tmp_path, {"file": tmp_path / "a.csv"})
    assert {prompt.id: prompt.text for prompt in named.prompts} == dict(
        zip("123", texts, strict=True)
    )


def test_a_prompt_set_is_a_list_too(tmp_path: Path) -> None:
    first = _run(tmp_path, texts=("a", "b"), name="one")
    again = _run(tmp_path, {"file": tmp_path / "step" / "prompts.jsonl"}, name="one")
    assert again == first


def test_ids_are_safe_file_names_and_do_not_move(tmp_path: Path) -> None:
    short = _run(tmp_path, texts=("../../etc/passwd", "x" * 400))
    longer = _run(tmp_path, texts=("new", "../../etc/passwd", "x" * 400))
    assert {p.id for p in short.prompts} < {p.id for p in longer.prompts}
    for prompt in longer.prompts:
        assert "/" not in prompt.id
        assert len(prompt.id) <= 64


def test_a_limit_changes_few_prompts_when_the_list_grows(tmp_path: Path) -> None:
    texts = tuple(f"prompt {n}" for n in range(60))
    small = {p.id for p in _run(tmp_path, texts=texts[:50], limit=20).prompts}
    large = {p.id for p in _run(tmp_path, texts=texts, limit=20).prompts}
    assert len(small) == len(large) == 20
    assert len(small & large) >= 12


def test_wrong_lists_are_refused(tmp_path: Path) -> None:
    cases = {
        "none.txt": (None, "no file"),
        "a.xlsx": ("x", "a list ending in '.xlsx'"),
        "a.csv": ("words\ncat\n", "a row without text"),
        "a.json": ("{broken", "unreadable text"),
        "b.csv": ("id,prompt\n1,cat\n1,dog\n", "two texts: 'cat' and 'dog'"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=message):
            _run(tmp_path, {"file": tmp_path / name})
    with pytest.raises(ValidationError, match="give one of collection, file and texts"):
        prompts.Config(texts=("a",), file="x")
    with pytest.raises(ValidationError, match="got none"):
        prompts.Config()


def test_an_edited_prompt_set_is_noticed(tmp_path: Path) -> None:
    _run(tmp_path, texts=("a cat", "a dog"))
    path = tmp_path / "step" / "prompts.jsonl"
    path.write_text(path.read_text().replace("a cat", "a bat"))
    with pytest.raises(CorruptFile, match="do not match the hash"):
        read_prompt_set(path)
    for other in ("{}\n", "a cat\na dog\n", '{"prompt": "a cat"}\n', ""):
        path.write_text(other)
        with pytest.raises(InputError, match="no prompt set.*Name the run"):
            read_prompt_set(path)


def test_parti_prompts_are_all_there(tmp_path: Path, assets: Path) -> None:
    files = sorted(assets.glob("google-research__parti/**/*.tsv"))
    if not files:
        pytest.skip(f"no PartiPrompts in {assets}")
    found = _run(tmp_path, {"file": files[0]})
    assert len(found.prompts) == 1632
    assert len({prompt.attribute("category") for prompt in found.prompts}) == 12
