"""The pair task: shared draws, batches, resume, validation, recipes."""

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tastemaker.errors import CorruptFile, InputError
from tastemaker.objectives.auto_beta import AutoBeta
from tastemaker.objectives.dpo import DPO, WinnerSFT
from tastemaker.records.run import Visit
from tastemaker.records.size import ImageSizes, Size
from tastemaker.training import pair_grid, preference
from tastemaker.training.divergence import judge
from tastemaker.training.pair_latents import PairLatents
from tastemaker.training.pair_objective import (
    DivergenceGuard,
    DpoObjective,
    EmaModel,
    FollowingBeta,
    WinnerObjective,
)
from tastemaker.training.pair_prompting import PairPrompter
from tastemaker.training.task import Task
from tests.preference_toys import PAIRS, VISITS, learned, made_task, nudge

# --- draws and batches ----------------------------------------------------------------------------


def test_both_sides_share_everything_that_is_drawn() -> None:
    task = made_task("sdxl", DPO(5.0, noise_offset=0.1))
    batch = task.batch(VISITS)
    count = len(VISITS)
    assert batch.noise.shape == batch.winner.shape == (count, 4, 8, 8)
    assert batch.t.shape == (count,)
    cond = batch.cond
    assert len(cond) == 2 * count
    assert torch.equal(cond.context[:count], cond.context[count:])
    assert torch.equal(cond.pooled[:count], cond.pooled[count:])
    # Each side is told the sizes of its own picture, height first.
    assert cond.time_ids[0].tolist() == [32, 32, 0, 0, 32, 32]
    assert cond.time_ids[count].tolist() == [64, 48, 8, 0, 32, 32]
    assert batch.label.tolist() == [1, 1, 1, 0.5, 1, 1]
    assert batch.offset is not None
    # The other pair at another visit has other draws, the same one the same.
    again = task.batch(VISITS[::-1])
    assert torch.equal(again.noise.flip(0), batch.noise)
    assert torch.equal(again.t.flip(0), batch.t)
    later = task.batch([Visit(v.sample_id, v.visit + 10) for v in VISITS])
    assert not torch.equal(later.noise, batch.noise)


def test_a_dropped_caption_is_dropped_on_both_sides() -> None:
    prompts = dict.fromkeys(PAIRS, "a red apple")
    prompter = PairPrompter(prompts, 0, empty=0.2)
    visits = [Visit(pair, n) for pair in PAIRS for n in range(500)]
    texts = [prompter.text(visit) for visit in visits]
    share = texts.count("") / len(texts)
    assert share == pytest.approx(0.2, abs=3 * (0.2 * 0.8 / len(texts)) ** 0.5)
    assert set(texts) == {"", "a red apple"}
    assert prompter.plain("p0") == "a red apple"
    assert texts == [prompter.text(visit) for visit in visits]
    with pytest.raises(ValueError, match="empty"):
        PairPrompter(prompts, 0, empty=1.0)


def test_a_pairs_loss_does_not_depend_on_its_neighbours() -> None:
    task = made_task()
    nudge(task)
    whole = task.terms(task.padded(VISITS)).per_sample.detach()
    assert len({round(float(x), 6) for x in whole}) == len(VISITS)
    padded = task.padded(VISITS)
    for order in ([5, 1, 0], [2], [3, 4]):
        some = task.terms([padded[i] for i in order]).per_sample.detach()
        torch.testing.assert_close(some, whole[order], rtol=1e-4, atol=1e-6)


def test_micro_batches_add_up_to_the_batch() -> None:
    grads = []
    for size in (6, 3, 1):
        task = made_task("sdxl", DPO(20.0, guard="sdpo", sft_weight=0.1))
        nudge(task)
        visits = task.padded(VISITS)
        for start in range(0, 6, size):
            (task.terms(visits[start : start + size]).per_sample.sum() / 6).backward()
        grads.append({n: p.grad for n, p in learned(task).items()})
    for name, gradient in grads[0].items():
        if gradient is None:
            continue
        scale = float(gradient.abs().max())
        for other in grads[1:]:
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-5 * scale + 1e-8)


def test_exchanged_sides_flip_the_margin() -> None:
    one, other = made_task("sd15"), made_task("sd15", swap=True)
    for task in (one, other):
        nudge(task)
    margins = [task.terms(VISITS).metrics["margin"] for task in (one, other)]
    torch.testing.assert_close(margins[0], -margins[1], rtol=1e-3, atol=1e-6)


def test_it_is_a_task_of_the_loop() -> None:
    task: Task = made_task("sd15")
    assert list(task.modules()) == ["unet"]
    assert task.terms(VISITS).per_sample.requires_grad
    assert not any(m.requires_grad for m in task.terms(VISITS).metrics.values())


@pytest.mark.parametrize("architecture", ["sdxl", "pixart-512"])
def test_it_learns_what_it_is_asked_for(architecture: str) -> None:
    """Twenty steps: trained pairs are told apart, and the winners' errors stay."""
    task = made_task(architecture, DPO(100.0), lora=True, reference="off", empty=0.0, draws=1)
    optimizer = torch.optim.AdamW(learned(task).values(), lr=3e-3)
    found = []
    visits = [v for v in VISITS if v.sample_id != "p3"]
    for _ in range(20):
        terms = task.terms(visits)
        terms.per_sample.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append({n: float(m.mean()) for n, m in terms.metrics.items()})
    assert found[0]["accuracy"] == 0.5
    assert found[-1]["accuracy"] == 1.0
    assert found[-1]["margin"] > 1e-3 > found[0]["margin"]


# --- refusals -------------------------------------------------------------------------------------


def test_a_timestep_without_signal_is_refused_before_the_first_step() -> None:
    from tastemaker.diffusion.pair_timesteps import EvenDraws, informative

    task = made_task("sdxl")
    task.family.set_schedule(zero_terminal=True)
    options: dict[str, Any] = {
        "family": task.family, "parts": task.parts, "reader": task.reader,
        "prompter": task.prompter, "objective": task.objective, "seed": 0,
        "reference": task.reference,
    }  # fmt: skip
    turbo = (249, 499, 749, 999)
    with pytest.raises(InputError, match="up to 999.*pure noise"):
        preference.PairTask(**options, timesteps=EvenDraws(turbo))
    schedule = task.family.schedule()
    made = preference.PairTask(**options, timesteps=EvenDraws(informative(schedule, turbo)))
    drawn = made.drawn_timesteps([Visit(p, n) for p in PAIRS for n in range(20)])
    assert set(drawn.tolist()) == {249, 499, 749}
    alone = preference.PairTask(**options)
    assert max(alone.timesteps.among) == 998


def test_text_encoders_and_missing_references_are_refused() -> None:
    task = made_task("sdxl")
    parts = {**task.parts, "text_encoder_1": task.family.parts["text_encoder_1"]}
    args = (task.family, parts, task.reader, task.prompter)
    with pytest.raises(InputError, match="text encoders"):
        preference.PairTask(*args, DPO(), seed=0, reference=task.reference)
    with pytest.raises(InputError, match="neither"):
        made_task("sd15", reference="none")
    assert made_task("sd15", WinnerSFT(), reference="none").terms(VISITS).per_sample.shape == (6,)


def test_sides_of_two_sizes_and_odd_labels_are_refused() -> None:
    sizes = ImageSizes(Size(32, 32), 0, 0, Size(32, 32))
    tall = PairLatents(torch.zeros(4, 8, 8), torch.zeros(4, 8, 4), sizes, sizes)
    with pytest.raises(InputError, match="pair x: .*never squashed"):
        tall.check("x")
    lost = PairLatents(torch.zeros(4, 8, 8), torch.zeros(4, 8, 8), sizes, sizes, 0.0)
    with pytest.raises(InputError, match="Exchange the sides"):
        lost.check("x")


# --- auto-beta, EMA and resume --------------------------------------------------------------------


class TwoRanks:
    """The other process has the same numbers."""

    rank, world, lockstep = 0, 2, True

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * values


def stepped(task: Any, steps: int, first: int = 0) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(learned(task).values(), lr=0.05)
    losses = []
    for number in range(first, first + steps):
        terms = task.terms([Visit(v.sample_id, v.visit + number) for v in VISITS])
        terms.per_sample.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step(terms.metrics)
        losses.append(terms.per_sample.detach())
    return losses


def test_auto_beta_follows_the_margins_and_is_one_for_all_ranks() -> None:
    objective = DPO(50.0, auto_beta=AutoBeta(decay=0.5, most=1e5))
    task = made_task("sd15", objective, reference="ema", decay=0.9)
    shared = made_task("sd15", objective, reference="ema", decay=0.9, sharing=TwoRanks())
    assert task.beta().item() == 50.0
    stepped(task, 3)
    stepped(shared, 3)
    assert task.beta().item() != 50.0
    assert torch.equal(task.beta(), shared.beta())
    terms = task.terms(VISITS)
    assert torch.equal(terms.metrics["beta"], task.beta().expand(6))


def test_a_skipped_step_changes_nothing() -> None:
    task = made_task("sd15", DPO(50.0, auto_beta=AutoBeta()), reference="ema", decay=0.5)
    nudge(task)
    before = {n: t.clone() for n, t in task.tensors().items()}
    task.after_step(task.terms(VISITS).metrics, moved=False)
    assert task.beta().item() == 50.0
    assert all(torch.equal(t, before[n]) for n, t in task.tensors().items())


@pytest.mark.parametrize(("kind", "lora"), [("ema", False), ("ema", True), ("copy", False)])
def test_a_resumed_run_goes_on_bit_for_bit(kind: str, lora: bool) -> None:
    """Weights, average, beta and the base of the validation; the reference is not the half-way."""
    options: dict[str, Any] = {"reference": kind, "lora": lora, "decay": 0.8}
    objective = DPO(50.0, auto_beta=AutoBeta(decay=0.5))
    whole = made_task("sd15", objective, **options)
    whole.validate()
    expected = stepped(whole, 4)[2:]
    half = made_task("sd15", objective, **options)
    half.validate()
    stepped(half, 2)
    state = json.loads(json.dumps(half.state()))
    tensors = {name: tensor.clone() for name, tensor in half.tensors().items()}
    weights = {name: p.detach().clone() for name, p in learned(half).items()}
    resumed = made_task("sd15", objective, **options)
    with torch.no_grad():
        for name, parameter in learned(resumed).items():
            parameter.copy_(weights[name])
    resumed.restore(state, tensors)
    found = stepped(resumed, 2, first=2)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert resumed.validate() == whole.validate()
    assert resumed.state() == whole.state()


def test_another_reference_is_no_resume() -> None:
    """Such as one that was copied from half-trained weights."""
    first = made_task("sd15")
    state = first.state()
    second = made_task("sd15")
    nudge(second)
    from tastemaker.training.reference import FrozenReference

    second.reference = FrozenReference(second.family)
    with pytest.raises(CorruptFile, match="another reference"):
        second.restore(state, {})
    made_task("sd15").restore(state, {})


# --- validation -----------------------------------------------------------------------------------


def test_validation_compares_with_the_start() -> None:
    for kind, objective in (("copy", DPO(50.0)), ("ema", DPO(50.0)), ("none", WinnerSFT())):
        task = made_task("sd15", objective, reference=kind, decay=0.0)
        start = task.validate()
        assert start["validation/accuracy"] == 0.5
        assert start["validation/margin"] == start["validation/winner_drift"] == 0.0
        nudge(task, 0.05)
        task.after_step({})
        later = task.validate()
        # An EMA of decay 0 is the policy itself by now: no drift would show against it.
        assert later["validation/winner_drift"] != 0.0
        assert later["validation/margin"] != 0.0
        assert start["probe/moved"] == 0.0 < later["probe/moved"]
        assert any(v != 0.5 for n, v in later.items() if n.startswith("validation/accuracy_t"))
        if kind != "none":
            assert start["validation/loss"] == pytest.approx(0.693147, abs=1e-6)
            assert judge([start, later]).level in ("fine", "warn", "stop")


def test_validation_figures_are_those_of_every_point_anew(monkeypatch: Any) -> None:
    """In any calls; the loss has the constant beta, and ties count half."""
    monkeypatch.setattr(pair_grid, "GRID_TIMESTEPS", 3)
    task = made_task("sd15", DPO(50.0))
    task.validate()
    nudge(task, 0.05)
    found = task.validate()
    monkeypatch.setattr(pair_grid, "GRID_PAIRS", 2)
    monkeypatch.setattr(pair_grid, "GRID_CELLS", 64)
    again = task.validate()
    assert again.keys() == found.keys()
    assert all(again[n] == pytest.approx(found[n], rel=1e-4, abs=1e-6) for n in found)
    grid = task.grids["validation"]
    policy, reference = grid.errors(task.family.denoise), grid.base
    assert reference is not None
    margin = (reference - policy)[0] - (reference - policy)[1]
    loss, right = [], []
    for point, m in zip(grid.points, margin.tolist(), strict=True):
        f, g = (torch.nn.functional.softplus(torch.tensor(s * 25.0 * m)).item() for s in (-1, 1))
        tied = point.sample_id == "h2"
        loss.append((f + g) / 2 if tied else f)
        right.append(0.5 if tied else float(m > 0))
    assert found["validation/loss"] == pytest.approx(sum(loss) / len(loss), rel=1e-5)
    assert found["validation/accuracy"] == pytest.approx(sum(right) / len(right), abs=1e-6)
    assert {n.rpartition("_t")[2] for n in found if "_t" in n} == {"166", "500", "833"}


def test_two_processes_validate_as_one(monkeypatch: Any) -> None:
    monkeypatch.setattr(pair_grid, "GRID_PAIRS", 4)

    class Half:
        """Keeps what it was asked to add up, for the other half."""

        world, lockstep = 2, False

        def __init__(self, rank: int) -> None:
            self.rank, self.seen = rank, list[torch.Tensor]()

        def sums(self, values: torch.Tensor) -> torch.Tensor:
            self.seen.append(values)
            return values

    alone = made_task("sd15", WinnerSFT(), reference="none")
    errors = alone.grids["validation"].errors(alone.family.denoise)
    parts = [Half(0), Half(1)]
    for part in parts:
        task = made_task("sd15", WinnerSFT(), reference="none", sharing=part)
        task.grids["validation"].errors(task.family.denoise)
    both = parts[0].seen[0] + parts[1].seen[0]
    torch.testing.assert_close(both, errors, rtol=1e-5, atol=0)
    assert (parts[0].seen[0] == 0).any()


def test_no_held_out_pairs_no_figures() -> None:
    assert made_task("sd15", held_out=()).validate() == {}


# --- recipes --------------------------------------------------------------------------------------


def test_recipes_open_what_they_say() -> None:
    config = DpoObjective.model_validate(
        {
            "beta": 2000.0, "convention": "spin", "link": "hinge", "guard": "sdpo", "guard_mu": 0.6,
            "reference": {"kind": "ema", "decay": 0.99}, "auto_beta": {"gradient": 0.3},
            "sft_weight": 1.0,
        }
    )  # fmt: skip
    assert config.reference == EmaModel(decay=0.99)
    assert config.open() == DPO(
        2000.0, "spin", "hinge", 0.0, "sdpo", 0.6, "native", 1.0, 0.0, AutoBeta(0.3), "ema"
    )
    assert DpoObjective().open() == DPO()
    assert FollowingBeta().open() == AutoBeta()
    assert WinnerObjective().open() == WinnerSFT()
    assert judge([], DivergenceGuard().open()).level == "fine"


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (DpoObjective, {"link": "ipo", "auto_beta": {}}),
        (DpoObjective, {"beta": 0.0}), (DpoObjective, {"reference": {"kind": "twin"}}),
        (FollowingBeta, {"least": 2.0, "most": 1.0}), (DivergenceGuard, {"warn_rise": 0.9}),
    ],
)  # fmt: skip
def test_recipes_refuse(model: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(wrong)
