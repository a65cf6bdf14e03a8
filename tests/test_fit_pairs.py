"""`fit_pairs`: what it leaves, resumes bit for bit, tables, guard, starts, refusals."""

import os
import signal
from typing import Any

import pytest
import torch

from tastemaker.errors import InputError, StaleCache
from tastemaker.records.finding import Finding
from tastemaker.records.run import Artefact
from tastemaker.stages import cache_pairs, fit_pairs
from tastemaker.store import jsonl
from tastemaker.store.checkpoints import CheckpointStore
from tastemaker.store.retention import read_best
from tastemaker.store.rundir import StepDir
from tastemaker.training.preference import PairTask
from tests.pair_runs import FIELDS, FULL, fitted, prepared_pairs, result
from tests.tiny_run import run_step, step_dir

EMA = {"objective": {"reference": {"kind": "ema", "decay": 0.5}}}
TABLE = {"objective": {"reference": {"kind": "table", "draws": 2}}}
WAYS: dict[str, dict[str, Any]] = {
    "adapters off": {"ema_decay": 0.9},
    "frozen copy": {"method": FULL, "empty_prompts": 0.0},
    "ema": {**EMA, "micro_batch": 2},
    "ema with auto beta": {"objective": {"auto_beta": {}, "reference": {"kind": "ema"}}},
    "table": TABLE,
    "sft": {"objective": {"kind": "sft_winners", "weighting": "soft_min_snr"}},
    "bf16 weights, ema": {**EMA, "precision": "bf16-weights"},
    "spin": {"objective": {"convention": "spin", "reference": {"kind": "iterate"}}},
    "turbo, fp16": {
        "preset": "sdxl-turbo", "precision": "fp16", "method": FULL,
        "objective": {
            "link": "ipo", "guard": "sdpo", "sft_weight": 0.1, "label_smoothing": 0.1,
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    return prepared_pairs(tmp_path_factory.mktemp("pairs"), tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def iterate(given: dict[str, Artefact], tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    """Adapters that a run starts from, as SPIN's next iteration does."""
    step = step_dir(tmp_path_factory.mktemp("iterate"), "fit")
    fitted(step, given, images_total=8)
    return Artefact("adapter", step.path / "adapter", "a")


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


def logs(step: StepDir) -> str:
    return (step.path / "log" / "metrics.jsonl").read_text()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())


def ends_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    terms, calls = PairTask.terms, []

    def terms_or_stop(self: PairTask, visits: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return terms(self, visits)

    monkeypatch.setattr(PairTask, "terms", terms_or_stop)


@pytest.mark.parametrize("way", WAYS)
def test_stopped_and_gone_on_with_equals_no_stop(
    way, given, iterate, tmp_path, monkeypatch
) -> None:
    if way == "spin":
        given = {**given, "adapter": iterate}
    whole, stopped = step_dir(tmp_path / "a", "fit"), step_dir(tmp_path / "b", "fit")
    manifest = fitted(whole, given, **WAYS[way])
    with monkeypatch.context() as patched:
        ends_at(patched, 8 if "micro_batch" in WAYS[way] else 4)
        with pytest.raises(KeyboardInterrupt):
            fitted(stopped, given, **WAYS[way])
    assert not {"model", "adapter"} & {file.name for file in stopped.path.iterdir()}
    again = fitted(stopped, given, **WAYS[way])
    assert logs(stopped) == logs(whole)
    assert same(result(stopped), result(whole))
    assert again.results == manifest.results
    checkpoints = [CheckpointStore(s.path / "checkpoints").latest() for s in (whole, stopped)]
    groups = []
    for found in checkpoints:
        assert found is not None
        groups.append({g: dict(t) for g, t in found.tensors.items()})
        assert found.state["small"]["task"] == checkpoints[0].state["small"]["task"]  # type: ignore[union-attr]
    # The moving reference, the errors that validations compare with, moments and weights.
    assert groups[0].keys() == groups[1].keys() >= {"task"}
    assert all(same(groups[0][g], groups[1][g]) for g in groups[0])
    assert manifest.counts["pairs trained on"] == 8
    assert manifest.counts["pairs held out"] == 2


def test_killed_and_gone_on_with(given, tmp_path, monkeypatch) -> None:
    whole, shot = step_dir(tmp_path / "a", "fit"), step_dir(tmp_path / "b", "fit")
    fitted(whole, given, **EMA)
    if (child := os.fork()) == 0:
        terms, calls = PairTask.terms, []

        def terms_or_die(self: PairTask, visits: Any) -> Any:
            calls.append(1)
            if len(calls) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return terms(self, visits)

        monkeypatch.setattr(PairTask, "terms", terms_or_die)
        try:
            fitted(shot, given, **EMA)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    fitted(shot, given, **EMA)
    assert logs(shot) == logs(whole)
    assert same(result(shot), result(whole))


def test_adapters_off_is_a_frozen_copy(given, tmp_path) -> None:
    steps = [step_dir(tmp_path, name) for name in ("off", "copy")]
    for step, how in zip(steps, ("adapters_off", "copy"), strict=True):
        fitted(step, given, objective={"reference": {"how": how}})
    assert same(result(steps[0]), result(steps[1]))
    assert logs(steps[0]) == logs(steps[1])


def test_a_table_is_made_once_and_says_what_the_reference_says(given, tmp_path, monkeypatch):
    first = step_dir(tmp_path / "run", "fit", "1")
    manifest = fitted(first, given, **TABLE, empty_prompts=0.0)
    assert manifest.outputs["reference_table"] == "reference.parquet"
    # A run of its own numbers, with the table of the first.
    second = step_dir(tmp_path / "other", "fit", "2")
    table = {"reference_table": Artefact("reference_table", first.path / "reference.parquet", "t")}
    with monkeypatch.context() as patched:
        patched.setattr(PairTask, "reference_errors", lambda *_: pytest.fail("made again"))
        fitted(second, {**given, **table}, **TABLE, empty_prompts=0.0)
        # And one in the same run folder with another beta finds it there.
        beta = {"objective": {**TABLE["objective"], "beta": 7.0}}
        fitted(step_dir(tmp_path / "run", "fit", "3"), given, **beta, empty_prompts=0.0)
    assert same(result(first), result(second))
    with pytest.raises(StaleCache, match="seed"):
        fitted(step_dir(tmp_path, "x"), {**given, **table}, **TABLE, empty_prompts=0.0, seed=1)
    inputs = {"pairs": given["pairs"], "model": given["model"]}
    _, cached = run_step(cache_pairs, step_dir(tmp_path, "cache"), inputs, size_px=32, dtype="fp32")
    other = {"cache": Artefact("pair_cache", cached["pair_cache"].path, "c2")}
    with pytest.raises(StaleCache, match="latents"):
        fitted(step_dir(tmp_path, "z"), {**given, **table, **other}, **TABLE, empty_prompts=0.0)
    fields = {**TABLE, "empty_prompts": 0.0, "precision": "bf16"}
    with pytest.raises(StaleCache, match="precision"):
        fitted(step_dir(tmp_path, "y"), {**given, **table}, **fields)


def test_a_table_that_was_stopped_goes_on(given, tmp_path, monkeypatch) -> None:
    from tastemaker.training import reference_precompute

    monkeypatch.setattr(reference_precompute, "CHUNK_PAIRS", 2)
    errors, calls = PairTask.reference_errors, []

    def errors_or_stop(self: PairTask, visits: Any) -> Any:
        calls.append(len(visits))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return errors(self, visits)

    monkeypatch.setattr(PairTask, "reference_errors", errors_or_stop)
    step = step_dir(tmp_path, "fit")
    with pytest.raises(KeyboardInterrupt):
        fitted(step, given, **TABLE)
    calls.clear()
    calls += [0] * 100
    fitted(step, given, **TABLE)
    # Two of the four parts were there, of two passes each.
    assert len(calls) == 100 + 4
    assert not list(step.path.parent.glob("reference_tables/*.parts"))


@pytest.mark.parametrize("action", ["warn", "stop"])
def test_the_guard_warns_or_ends_the_run(action, given, tmp_path) -> None:
    step = step_dir(tmp_path, "fit")
    guard = {"action": action, "warn_rise": 0.01, "stop_rise": 0.02, "patience": 1}
    fields = {"method": FULL, "optimizer": {"lr": 5e-2}, "validate_every_images": 4}
    manifest = fitted(step, given, **fields, save_every_images=4, guard=guard, images_total=40)
    alarms = [event for event in step.events() if event["kind"] == "alarm"]
    assert alarms
    told = [event["text"] for event in step.events() if event["kind"] == "told"]
    # The step's name is before it already.
    assert told
    assert all(text.startswith(("warn: ", "stop: ")) for text in told)
    assert "winners" in manifest.results["alarm"]
    if action == "warn":
        assert manifest.counts["images"] == 40
        return
    assert manifest.counts["images"] < 40
    assert manifest.results["ended_early"] == manifest.results["alarm"]
    assert manifest.outputs["model"] == "model"
    best = read_best(step.path / "checkpoints")
    assert manifest.results.get("result_of_step") == (best and best["step"])
    # A resume of the stopped run trains no step more.
    seen = len(list(jsonl.read(step.path / "log" / "metrics.jsonl")))
    again = fitted(step, given, **fields, save_every_images=4, guard=guard, images_total=40)
    assert again.counts["images"] == manifest.counts["images"]
    assert len(list(jsonl.read(step.path / "log" / "metrics.jsonl"))) == seen


def test_the_result_of_a_stopped_run_is_the_best_checkpoint(given, tmp_path, monkeypatch) -> None:
    from tastemaker.training import divergence_watch
    from tastemaker.training.divergence import Alarm

    looks: list[int] = []

    def judged(*_: Any) -> Alarm:
        looks.append(1)
        return Alarm("stop", ("enough",)) if len(looks) == 4 else Alarm()

    monkeypatch.setattr(divergence_watch, "judge", judged)
    step = step_dir(tmp_path, "fit")
    fields = {"validate_every_images": 4, "save_every_images": 4, "keep_checkpoints": 9}
    manifest = fitted(step, given, **fields, guard={"action": "stop"})
    best = read_best(step.path / "checkpoints")
    assert best is not None
    assert manifest.results["result_of_step"] == best["step"] < manifest.counts["steps"] == 3
    stored = CheckpointStore(step.path / "checkpoints").load(best["step"]).tensors["weights"]
    values = sorted(float(t.double().sum()) for t in stored.values())
    assert values == sorted(float(t.double().sum()) for t in result(step).values())
    assert manifest.results["validation/loss"] == pytest.approx(best["validation_loss"], rel=1e-6)


def test_adapters_are_gone_on_with_against_where_they_were(given, tmp_path) -> None:
    first = step_dir(tmp_path, "first")
    fitted(first, given)
    adapter = {"adapter": Artefact("adapter", first.path / "adapter", "a")}
    for name, how in (("auto", "auto"), ("copy", "copy")):
        step = step_dir(tmp_path, name)
        kind = {"kind": "iterate", "how": how}
        manifest = fitted(step, {**given, **adapter}, objective={"reference": kind})
        rows = list(jsonl.read(step.path / "log" / "metrics.jsonl"))
        # At its start it is its own reference.
        assert rows[0]["validation/loss"] == pytest.approx(0.693147, abs=1e-6)
        assert rows[0]["validation/margin"] == 0.0
        assert not same(result(step), result(first))
        assert manifest.results["reference"] == ("StartAdapters", "FrozenReference")[how == "copy"]
    assert same(result(step_dir(tmp_path, "auto")), result(step_dir(tmp_path, "copy")))
    whole = step_dir(tmp_path, "whole")
    assert fitted(whole, {**given, **adapter}, method=FULL).outputs["model"] == "model"
    fields: dict[str, Any] = {"method": {"kind": "lora", "rank": 3, "alpha": 3.0}}
    with pytest.raises(InputError, match="rank 2.*rank 3"):
        fitted(step_dir(tmp_path, "x"), {**given, **adapter}, **fields)
    fields = {"objective": {"reference": {"how": "adapters_off"}}}
    with pytest.raises(InputError, match="starts from adapters"):
        fitted(step_dir(tmp_path, "y"), {**given, **adapter}, **fields)


def test_another_model_as_the_reference(given, tmp_path) -> None:
    first = step_dir(tmp_path, "first")
    fitted(first, given, method=FULL)
    other = {"reference": Artefact("model", first.path / "model", "r")}
    step = step_dir(tmp_path, "second")
    manifest = fitted(step, {**given, **other})
    rows = list(jsonl.read(step.path / "log" / "metrics.jsonl"))
    assert manifest.results["reference"] == "FrozenReference"
    assert rows[0]["validation/winner_drift"] != 0.0
    assert rows[0]["validation/loss"] != pytest.approx(0.693147, abs=1e-6)


def test_turbo_is_trained_at_three_timesteps_without_empty_texts(given, tmp_path) -> None:
    manifest = fitted(step_dir(tmp_path, "fit"), given, preset="sdxl-turbo", images_total=8)
    assert manifest.results["preset"] == "sdxl-turbo"
    assert (manifest.results["timesteps_trained"], manifest.results["empty_prompts"]) == (3, 0.0)
    rows = list(jsonl.read(tmp_path / "fit" / manifest.key[:12] / "log" / "metrics.jsonl"))
    assert {n.rpartition("_t")[2] for n in rows[0] if "_t" in n} == {"249", "499", "749"}
    ranged = {"timesteps": {"most": 499}}
    manifest = fitted(step_dir(tmp_path, "low"), given, objective=ranged, images_total=8)
    assert manifest.results["timesteps_trained"] == 500


def test_what_makes_no_sense_is_refused(given, tmp_path) -> None:
    words = {n: n for n in ("model", "pairs", "cache")}
    for fields, message in (
        ({"method": {"kind": "full", "parts": ["unet", "text_encoder_1"]}}, "same text"),
        ({"reference_table": "t"}, "kind table"),
        ({"reference": "m", "objective": {"kind": "sft_winners"}}, "compares with no model"),
        ({"reference": "m", "objective": {"reference": {"kind": "ema"}}}, "follows"),
        ({"optimizer": {"part_lr": {"vae": 1e-4}}}, "part_lr"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_pairs.Config(**words, images_total=1, **fields)  # type: ignore[arg-type]
    silent = {"timesteps": {"least": 999}}
    with pytest.raises(InputError, match="timesteps"):
        fitted(step_dir(tmp_path, "x"), given, preset="sdxl-turbo", objective=silent)


def findings(found: Any) -> dict[str, Finding]:
    return {one.where: one for one in found}


def test_what_a_check_says(given) -> None:
    words = {n: n for n in ("model", "pairs", "cache")}
    config = fit_pairs.Config(
        **words, **{**FIELDS, "method": FULL, "objective": {"beta": 1.0}, "empty_prompts": 0.1},
        preset="sdxl-turbo",
    )  # fmt: skip
    told = fit_pairs.forecast(config, given, {})
    found = findings([*told.findings, *fit_pairs.check(config, given)])
    assert {"pairs", "objective.beta", "optimizer.lr", "empty_prompts"} <= found.keys()
    assert not any(one.fatal for one in found.values())
    assert "4 pairs of 32x32 a pass" in told.lines[0] or "4 pairs" in " ".join(told.lines)
    needs = {}
    for name, reference in {
        "copy": {}, "stream": {"offload": "stream"}, "cpu": {"offload": "cpu"},
        "ema": {"kind": "ema"}, "table": {"kind": "table"},
    }.items():  # fmt: skip
        fields = {**FIELDS, "method": FULL, "objective": {"reference": reference}}
        needs[name] = fit_pairs.forecast(fit_pairs.Config(**words, **fields), given, {}).figures
    weights = {name: figures["need"]["reference"] for name, figures in needs.items()}
    trained = needs["copy"]["need"]["trained"]
    assert weights["copy"] == weights["ema"] == 4 * trained
    assert weights["table"] == weights["cpu"] == 0 < weights["stream"] < trained
    lora = fit_pairs.forecast(fit_pairs.Config(**words, **FIELDS), given, {}).figures
    assert lora["need"]["reference"] == 0
