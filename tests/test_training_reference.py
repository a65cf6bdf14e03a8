"""References of every kind: one and the same model, and what becomes of it in training."""

from typing import Any

import pytest
import torch

from tastemaker.errors import InputError
from tastemaker.models.adapters import lora_parameters, merge_lora
from tastemaker.models.twins import adapters_off
from tastemaker.objectives.dpo import DPO
from tastemaker.training.pair_objective import (
    EmaModel,
    ErrorTable,
    FrozenModel,
    Iterate,
    open_reference,
)
from tastemaker.training.reference import AdaptersOff, EmaReference, FrozenReference
from tests.preference_toys import ARCHITECTURES, VISITS, learned, made_task, nudge
from tests.tiny_models import tiny_family

FULL = ["copy", "step", "stream", "cpu", "ema"]
LORA = ["copy", "off", "ema"]


def logits(task: Any) -> torch.Tensor:
    return task.terms(VISITS).metrics["logit"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_give_equal_logits_bit_for_bit(architecture: str) -> None:
    """Of a policy that has moved, in float32 on the CPU; the EMA with decay 1."""
    for lora, kinds in ((False, FULL), (True, LORA)):
        found = []
        for kind in kinds:
            task = made_task(architecture, reference=kind, lora=lora, decay=1.0)
            nudge(task)
            task.after_step({})
            found.append(logits(task))
        assert all(torch.equal(each, found[0]) for each in found[1:]), (lora, kinds)
        assert (found[0] != 0).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("autocast", [False, True])
def test_before_the_first_step_every_reference_costs_ln_2(
    architecture: str, autocast: bool
) -> None:
    for lora, kinds in ((False, FULL), (True, LORA)):
        for kind in kinds:
            task = made_task(architecture, DPO(5000.0), reference=kind, lora=lora)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                terms = task.terms(VISITS)
            loss = terms.per_sample
            assert (loss - 0.6931471805599453).abs().max() <= 1e-6, (lora, kind)
            assert (terms.metrics["accuracy"] == 0.5).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_half_copy_is_exact_where_passes_are_in_bf16(architecture: str) -> None:
    """Only the weights that autocast rounds anyway are rounded."""
    task = made_task(architecture, DPO(5000.0))
    half = FrozenReference(task.family, rounding="products")
    whole = FrozenReference(task.family)
    batch = task.batch(VISITS)
    t = torch.cat([batch.t, batch.t])
    x_t = task.schedule.add_noise(
        torch.cat([batch.winner, batch.loser]), torch.cat([batch.noise] * 2), t
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(half(x_t, t, batch.cond), whole(x_t, t, batch.cond))
    network = half._twin.parts[task.family.denoiser]  # noqa: SLF001
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16, torch.float32}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_with_bf16_weights_starts_at_ln_2(architecture: str) -> None:
    """The trained network is rounded after the copy was made, all but its norms."""
    from tastemaker.models.twins import frozen_copy

    task = made_task(architecture, DPO(5000.0))
    task.reference = open_reference(FrozenModel(), task.family, "bf16-weights")
    (network,) = task.modules().values()
    rounded = dict(frozen_copy(network, "weights").named_parameters())
    for name, parameter in network.named_parameters():
        parameter.data = rounded[name].data.clone()
    with torch.autocast("cpu", torch.bfloat16):
        loss = task.terms(VISITS).per_sample
    assert (loss - 0.6931471805599453).abs().max() <= 1e-6


def test_calling_a_reference_leaves_the_policy_alone() -> None:
    """No gradient, no changed weight, no changed switch, in the middle of a step."""
    for kind, lora in (("off", True), ("ema", True), ("ema", False), ("stream", False)):
        plain = made_task(reference="copy", lora=lora, decay=1.0)
        task = made_task(reference=kind, lora=lora, decay=1.0)
        for each in (plain, task):
            nudge(each)
            each.terms(VISITS).per_sample.mean().backward()
        gradients = [{n: p.grad for n, p in learned(each).items()} for each in (plain, task)]
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            other = gradients[1][name]
            assert (gradient is None) == (other is None)
            if gradient is not None and other is not None:
                assert torch.equal(gradient, other), (kind, name)


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_offloaded_copies_are_the_copy_on_an_accelerator(architecture: str) -> None:
    """Bit for bit where the device computes, and its memory is free again after a pass."""
    task = made_task(architecture)
    family = task.family.to("cuda")
    batch = task.batch(VISITS)
    t = torch.cat([batch.t, batch.t]).cuda()
    x_t = torch.cat([batch.winner, batch.loser]).cuda()
    cond = batch.cond.to("cuda")
    expected = FrozenReference(family)(x_t, t, cond)
    for offload in ("step", "stream"):
        made = FrozenReference(family, offload=offload)  # type: ignore[arg-type]
        before = torch.cuda.memory_allocated()
        found = made(x_t, t, cond)
        assert torch.equal(found, expected)
        assert torch.cuda.memory_allocated() - before <= found.numel() * 4 + 2**20
    on_cpu = FrozenReference(family, offload="cpu")(x_t, t, cond)
    assert on_cpu.device.type == "cuda"
    torch.testing.assert_close(on_cpu, expected, rtol=1e-2, atol=1e-2)


# --- EMA: self-reward -----------------------------------------------------------------------------


def run(task: Any, steps: int = 4) -> list[torch.Tensor]:
    """A few steps of plain gradient descent; the losses of each."""
    optimizer = torch.optim.AdamW(learned(task).values(), lr=1e-3)
    losses = []
    for _ in range(steps):
        terms = task.terms(VISITS)
        terms.per_sample.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step(terms.metrics)
        losses.append(terms.per_sample.detach())
    return losses


@pytest.mark.parametrize("lora", [False, True])
def test_the_ends_of_the_decay(lora: bool) -> None:
    """1 is plain DPO, bit for bit; 0 costs ln 2 for ever, and no error changes; 0.5 learns."""
    objective = DPO(200.0)
    made = {
        name: run(made_task("sd15", objective, reference=kind, decay=decay, lora=lora))
        for name, kind, decay in (
            ("frozen", "copy", 0.0), ("one", "ema", 1.0),
            ("half", "ema", 0.5), ("zero", "ema", 0.0),
        )
    }  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(made["frozen"], made["one"], strict=True))
    for loss in made["zero"]:
        assert (loss - 0.6931471805599453).abs().max() <= 1e-6
    for name in ("one", "half"):
        assert made[name][-1].mean() < 0.69 < made[name][0].mean()


def test_the_average_is_kept_in_float32_and_in_the_closed_form() -> None:
    task = made_task("sd15", reference="ema", decay=0.75, lora=True)
    reference = task.reference
    assert isinstance(reference, EmaReference)
    start = {n: t.clone() for n, t in reference.tensors().items()}
    nudge(task)
    end = {n: p.detach().double() for n, p in learned(task).items()}
    for _ in range(3):
        reference.after_step()
    assert start.keys() == end.keys()
    for name, tensor in reference.tensors().items():
        assert tensor.dtype == torch.float32
        expected = 0.75**3 * start[name].double() + (1 - 0.75**3) * end[name]
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-7)


def test_an_average_of_rounded_weights_follows_the_wide_ones() -> None:
    """The networks hold bf16; what the optimiser moves is float32, and is what is averaged."""
    family = tiny_family("sd15")
    family.trainable(("unet",))
    wide = {f"unet.{n}": p.detach().clone() for n, p in family.unet.named_parameters()}
    family.unet.to(torch.bfloat16)
    reference = EmaReference(family, 0.999, wide)
    for tensor in wide.values():
        tensor.add_(1e-3)
    reference.after_step()
    name, tensor = next(iter(reference.tensors().items()))
    moved = tensor - (wide[f"unet.{name}"] - 1e-3)
    assert (moved > 0).float().mean() > 0.9  # steps of 1e-6 are kept


def test_the_second_adapter_stays_out_of_the_file() -> None:
    """The model has one adapter to save, and the average is over nothing but it."""
    task = made_task("sd15", reference="ema", lora=True)
    own = {f"unet.{n}" for n in learned(task)}
    assert own == set(lora_parameters(task.family))
    assert task.reference is not None
    assert set(task.reference.tensors()) == {n.removeprefix("unet.") for n in own}


# --- fingerprints, refusals, configuration --------------------------------------------------------


def test_the_fingerprint_is_of_the_base_weights() -> None:
    """A copy, adapters off, in any process: one hash; another model has another."""
    full = made_task("sd15").reference
    adapted = made_task("sd15", lora=True, reference="off")
    assert full is not None
    assert adapted.reference is not None
    before = full.fingerprint()
    assert adapted.reference.fingerprint() == before
    nudge(adapted)
    assert adapted.reference.fingerprint() == before
    other = FrozenReference(tiny_family("sd15", seed=1))
    assert other.fingerprint() != before


def test_another_models_weights_may_be_the_reference() -> None:
    """SPIN's last iterate, or the base below a fine-tuned checkpoint."""
    task = made_task("sd15")
    base = tiny_family("sd15", seed=1)
    made = FrozenReference(task.family, base.unet, kind="iterate")
    assert made.kind == "iterate"
    batch = task.batch(VISITS)
    t = torch.cat([batch.t, batch.t])
    x_t = torch.cat([batch.winner, batch.loser])
    with torch.no_grad():
        expected = base.denoise(x_t, t, batch.cond)
    assert torch.equal(made(x_t, t, batch.cond), expected)


def test_adapters_off_are_refused_where_they_are_no_fixed_model() -> None:
    family = tiny_family("sd15")
    with pytest.raises(InputError, match="no adapters"):
        AdaptersOff(family)
    adapted = made_task("sd15", lora=True, reference="off").family
    adapted.parts["unet"].conv_in.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="conv_in"):
        AdaptersOff(adapted)
    merge_lora(adapted)
    with pytest.raises(InputError, match="no adapters"), adapters_off(adapted.parts["unet"]):
        pass


def test_an_average_needs_weights_that_learn() -> None:
    with pytest.raises(ValueError, match="learn"):
        EmaReference(tiny_family("sd15"), 0.5)
    with pytest.raises(ValueError, match="decay"):
        made_task("sd15", reference="ema", decay=1.5)


def test_a_recipe_opens_the_reference_that_fits() -> None:
    full, adapted = made_task("sd15").family, made_task("sd15", lora=True).family
    assert isinstance(open_reference(FrozenModel(), full), FrozenReference)
    assert isinstance(open_reference(FrozenModel(), adapted), AdaptersOff)
    assert isinstance(open_reference(FrozenModel(how="copy"), adapted), FrozenReference)
    assert isinstance(open_reference(EmaModel(), adapted), EmaReference)
    assert open_reference(ErrorTable(), full) is None
    iterate = open_reference(Iterate(offload="cpu"), full)
    assert iterate is not None
    assert iterate.kind == "iterate"
    with pytest.raises(InputError, match="adapters_off"):
        open_reference(FrozenModel(how="adapters_off"), full)
    with pytest.raises(InputError, match="half"):
        open_reference(FrozenModel(half=True), full, "fp32")
