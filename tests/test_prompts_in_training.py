"""From a collection's captions and tags to what the text encoders are given in training."""

import json
from pathlib import Path

import pytest
import torch

from tastemaker.cli.app import main
from tastemaker.curation.prompts import CaptionPrompt, MixedPrompt, TagPrompt
from tastemaker.curation.tag_prompts import ScoreTags, TagRules
from tastemaker.errors import InputError
from tastemaker.models.family import load_family
from tastemaker.models.prompt_tokens import load_prompt_tokens
from tastemaker.records.draws import Draw
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Artefact, Visit
from tastemaker.records.size import Size
from tastemaker.stages import cache, fit
from tastemaker.training.diffusion import DiffusionTask
from tastemaker.training.prompt_preview import balanced, look_ahead, preview_lines
from tastemaker.training.prompting import Prompter, refuse_textless
from tests.tiny_models import WINDOW, saved_sdxl
from tests.tiny_run import collected, run_step, step_dir, write_picture

INSIDE = WINDOW - 2
TAGS = ("apple", "tree", "red_car", "cat", "grey_road", "rain", "tiger", "banana")
SHORT = {
    "images_total": 40,
    "batch": 4,
    "stable_images": 2,
    "save_every_images": 1000,
    "validate_every_images": 1000,
    "method": {"kind": "lora", "rank": 2, "alpha": 2.0},
}
MIXED = {"kind": "mixed", "tag_share": 0.2, "weights": (9.0, 1.0), "empty": 0.2}


def tagged_pictures(folder: Path, count: int = 8) -> Path:
    """Pictures with two captions, tags, a score, and some with a watermark."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        write_picture(folder / f"{number}.png", number)
        rows.append(
            {
                "file_name": f"{number}.png",
                "captions": [f"a cat {number}", "the red apple " * 5 * number],
                "tags": list(TAGS[: 1 + number]),
                "score": number,
                "watermark": number % 2 == 0,
            }
        )
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    root = tmp_path_factory.mktemp("tagged")
    made = collected(root, tagged_pictures(root / "pictures"))
    made["model"] = Artefact("model", saved_sdxl(tmp_path_factory.getbasetemp()), "m")
    _, latents = run_step(cache, step_dir(root, "cache"), made, size_px=32)
    return {**made, **latents}


def config(given, **fields) -> fit.Config:
    inputs = {name: name for name in fit.Config.inputs if name in given}
    return fit.Config(**{**inputs, **SHORT, **fields})


def texts_of_a_run(given, tmp_path, monkeypatch, **fields) -> list[list[tuple[Visit, str]]]:
    """What every forward pass of a fit reads, by micro-batch."""
    terms, read = DiffusionTask.terms, []

    def spy(self, visits):
        read.append([(visit, self.prompter.text(visit)) for visit in visits])
        return terms(self, visits)

    monkeypatch.setattr(DiffusionTask, "terms", spy)
    run_step(fit, step_dir(tmp_path, "fit"), given, **{**SHORT, **fields})
    monkeypatch.undo()
    return read


def test_V5_a_fit_draws_empty_texts_and_captions_at_every_visit(given, tmp_path, monkeypatch):
    """V5: both were drawn once when captions were cached, and frozen for the whole run."""
    prompts = {"kind": "captions", "weights": (1.0, 1.0), "empty": 0.3}
    read = texts_of_a_run(given, tmp_path, monkeypatch, prompts=prompts, images_total=160)
    by_picture: dict[str, set[str]] = {}
    for visit, text in (one for batch in read for one in batch):
        by_picture.setdefault(visit.sample_id, set()).add(text)
    assert len(by_picture) == 8
    # 20 visits each. One picture's second caption is blank, so it has one caption.
    assert sum("" in texts for texts in by_picture.values()) >= 7
    assert sum(len(texts) == 3 for texts in by_picture.values()) >= 6


def test_the_preview_shows_what_the_run_then_reads(given, tmp_path, monkeypatch):
    lines = fit.preview(config(given, prompts=MIXED), _inputs(given))
    read = texts_of_a_run(given, tmp_path, monkeypatch, prompts=MIXED, micro_batch=2)
    first = [text for batch in read[:2] for _, text in batch]
    assert lines[0] == "texts of the first step, 4 of 4:"
    tokens = load_prompt_tokens(given["model"].path)
    for line, text in zip(lines[1:5], first, strict=True):
        count = tokens.counts([text])[0]
        assert line.startswith(f"{count:>4} tokens  ")
        assert " / ".join(tokens.seen(text)) in line or text == ""
    assert lines[5].startswith("first 10 steps: ")
    assert lines[6].startswith("texts: ")
    assert lines[7].startswith("batches: ")
    assert f"% of {INSIDE} tokens" in lines[7]
    assert lines[8].startswith("with balance_lengths, batches: ")


def _inputs(given):
    return {name: given[name] for name in fit.Config.inputs if name in given}


def test_tokens_without_the_model_are_those_of_the_model(given):
    tokens, family = load_prompt_tokens(given["model"].path), load_family(given["model"].path)
    texts = ["", "a cat", "the red apple " * 9, "a,b c_d"]
    assert tokens.reports(texts) == family.token_reports(texts)
    assert tokens.inside == INSIDE
    assert tokens.seen("") == [""]
    seen = tokens.seen("the red apple " * 9)
    assert len(seen) == 3
    assert (
        "".join(seen).replace(" ", "") == ("theredapple" * 9)[: len("".join(seen).replace(" ", ""))]
    )


def test_all_parts_of_a_step_are_padded_to_its_longest_text(given, tmp_path, monkeypatch):
    read = texts_of_a_run(given, tmp_path, monkeypatch, prompts=MIXED, micro_batch=1)
    family = load_family(given["model"].path)
    steps = [sum(read[start : start + 4], []) for start in range(0, len(read), 4)]
    seen = set()
    for step in steps:
        longest = family.windows([text for _, text in step])
        assert {visit.windows for visit, _ in step} == {longest}
        seen.add(longest)
    assert len(seen) > 1


def test_tags_train_alike_in_any_micro_batch(given):
    records = {f"p{n}": record(f"p{n}", *TAGS[: n + 3]) for n in range(4)}
    family = load_family(given["model"].path)
    prompter = Prompter(records, TagPrompt(scores=ScoreTags()), 0)
    latent = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    sizes = load_sizes()
    from tastemaker.objectives.sft import SFT

    task = DiffusionTask(
        family, {"unet": family.parts["unet"]}, prompter, lambda *_: (latent, sizes), SFT(), seed=0
    )
    visits = task.padded([Visit(name, 2) for name in records])
    whole = task.terms(visits).per_sample.detach()
    parts = torch.cat([task.terms([visit]).per_sample.detach() for visit in visits])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
    # Texts of tags are not kept: nearly every visit has another one.
    assert not task._text_states


def load_sizes():
    from tastemaker.records.size import ImageSizes

    return ImageSizes(Size(32, 32), 0, 0, Size(32, 32))


def record(name: str, *tags: str, captions: tuple[str, ...] = ()) -> ImageRecord:
    return ImageRecord(
        id=name, path=name, source="s", key=name, size=None, captions=captions, tags=tags
    )


def test_balanced_batches_are_of_one_length(given):
    tokens = load_prompt_tokens(given["model"].path)
    long = " ".join(["apple"] * 4 * INSIDE)
    records = {
        f"p{n}": record(f"p{n}", captions=(long if n % 2 else "cat", "never drawn " * 40))
        for n in range(64)
    }
    prompter = Prompter(records, CaptionPrompt(empty=0), 0)
    buckets = {Size(32, 32): sorted(records)}
    groups = balanced(buckets, prompter, tokens)
    assert {key: len(ids) for key, ids in groups.items()} == {
        (Size(32, 32), 1): 32,
        (Size(32, 32), 3): 32,
    }
    plain = look_ahead(prompter, tokens, buckets, 8, 8)
    even = look_ahead(prompter, tokens, groups, 8, 8)
    assert plain.mix == {INSIDE: 0.0, 2 * INSIDE: 0.0, 3 * INSIDE: 1.0}
    assert even.mix == {INSIDE: 0.5, 2 * INSIDE: 0.0, 3 * INSIDE: 0.5}
    assert plain.texts.cut_texts == even.texts.cut_texts == 32
    assert any("[cut off: apple" in line for line in preview_lines(plain, tokens))


def test_expected_lengths_follow_the_rules():
    def count(texts):
        return [len(text) for text in texts]

    records = {
        "tags": record("tags", "aa", "bb", "cc"),
        "both": record("both", "aa", captions=("1234", "123456", "12345678")),
    }
    made = Prompter(records, TagPrompt(), 0).expected_tokens(("tags", "both"), count)
    assert made == pytest.approx({"tags": 10.0, "both": 2.0})
    rules = MixedPrompt(weights=(1.0, 1.0), scores=ScoreTags())
    made = Prompter(records, rules, 0).expected_tokens(("tags", "both"), count)
    assert made == pytest.approx({"tags": 15.0, "both": 11.0})
    many = {"m": record("m", *(f"{n:03}" for n in range(110)))}
    rules = TagPrompt(mean_tags=20, sd_tags=0)
    made = Prompter(many, rules, 0).expected_tokens(("m",), count)
    assert made["m"] == pytest.approx((110 * 5 - 2) * 20 / 110)


def test_tags_match_their_caption_in_length():
    asked = record("p", *(f"t{n}" for n in range(60)), captions=("x" * 50,))
    rules = MixedPrompt(tag_share=1, empty=0, tags=TagRules(tokens_per_tag=2.5, comma_prompts=1))
    prompter = Prompter({"p": asked}, rules, 0, count_tokens=lambda texts: [len(t) for t in texts])
    assert {prompter.text(Visit("p", n)).count(",") for n in range(20)} == {19}


def test_scores_and_watermarks_of_the_collection_reach_the_texts(given, tmp_path, monkeypatch):
    prompts = {
        "kind": "tags",
        "scores": {},
        "empty": 0,
        "least_tags": 1,
        "mean_tags": 1,
        "sd_tags": 0,
    }
    read = texts_of_a_run(given, tmp_path, monkeypatch, prompts=prompts)
    texts = [text for batch in read for _, text in batch]
    assert all("score" in text for text in texts)
    assert sum("watermark" in text for text in texts) == len(texts) / 2


def test_aliases_are_read_and_what_is_left_out_is_told(given, tmp_path, monkeypatch):
    file = tmp_path / "aliases.csv"
    file.write_text('apple,0,9,"pomme,Apfel"\ntree,0,8,"apple,arbre"\n')
    with_file = {**given, "aliases": Artefact("aliases", file, "a")}
    prompts = {"kind": "tags", "alias_share": 1, "empty": 0}
    findings = fit.check(config(with_file, prompts=prompts), _inputs(with_file))
    assert not findings[0].fatal
    assert "alias that is a tag itself: 1 (apple -> tree)" in findings[0].problem
    read = texts_of_a_run(with_file, tmp_path, monkeypatch, prompts=prompts)
    texts = [text for batch in read for _, text in batch]
    assert not any("apple" in text for text in texts)
    assert sum("pomme" in text or "apfel" in text for text in texts) > len(texts) / 2


def test_texts_that_lose_their_end_are_a_warning(given):
    prompts = {"kind": "captions", "weights": (1.0, 9.0), "empty": 0}
    [finding] = fit.check(config(given, prompts=prompts), _inputs(given))
    assert not finding.fatal
    assert "of 40 texts are cut" in finding.problem
    assert fit.check(config(given, prompts={"kind": "captions"}), _inputs(given)) == []


def test_nothing_is_said_of_what_is_not_there_yet(given):
    asked = config(given)
    for missing in ("collection", "selection", "model"):
        some = {name: one for name, one in _inputs(given).items() if name != missing}
        assert fit.preview(asked, some) == []
        assert fit.check(asked, some) == []
    without_latents = {name: one for name, one in _inputs(given).items() if name != "cache"}
    assert fit.preview(asked, without_latents)


@pytest.mark.parametrize(
    ("rules", "lacking"),
    [(CaptionPrompt(), "a caption"), (TagPrompt(), "tags"), (MixedPrompt(), "captions or tags")],
)
def test_pictures_without_a_text_are_refused(rules, lacking):
    whole = record("whole", "cat", captions=("a cat",))
    prompter = Prompter({"whole": whole, "bare": record("bare")}, rules, 0)
    refuse_textless(prompter, ["whole"], "selection")
    with pytest.raises(InputError, match=f"1 pictures without {lacking}, first bare.*Add"):
        refuse_textless(prompter, ["whole", "bare"], "selection")


def test_texts_do_not_depend_on_the_order_in_which_they_are_asked_for():
    records = {f"p{n}": record(f"p{n}", *TAGS, captions=("a", "b")) for n in range(5)}
    rules = MixedPrompt(tag_share=0.5, weights=(1.0, 1.0))
    visits = [Visit(name, n) for n in range(30) for name in records]
    first, second = (Prompter(records, rules, 3) for _ in range(2))
    forth = {visit: first.text(visit) for visit in visits}
    back = {visit: second.text(visit) for visit in reversed(visits)}
    assert forth == back
    assert first.text(Visit("p0", 4, windows=3)) == first.text(Visit("p0", 4))
    assert Draw(3, "prompt", "p0", 4).key() != Draw(3, "validation prompt", "p0", 4).key()


def test_check_prints_the_texts_of_a_recipe(given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    inputs = {name: str(one.path) for name, one in _inputs(given).items()}
    step = {
        "name": "fit",
        "stage": "fit",
        **inputs,
        "prompts": MIXED,
        "images_total": 40,
        "batch": 4,
    }
    recipe = {"name": "mine", "about": "texts", "seed": 0, "steps": [step]}
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe))
    assert main(("check", "mine.yaml", "-o", "run")) == 0
    told = capsys.readouterr().out
    assert "fit:\n    texts of the first step, 4 of 4:\n" in told
    assert "\n    batches: " in told
    assert main(("check", "mine.yaml", "-o", "run", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["previews"]["fit"][0].startswith(
        "texts of the first"
    )
