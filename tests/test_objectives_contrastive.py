"""Symmetric InfoNCE: CLIP's loss, and its extension to several right answers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.objectives.contrastive import Contrastive, same_concept

SCALE = torch.tensor(math.log(10.0), dtype=torch.float64)


def embeddings(count: int = 5, dim: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    u, w = torch.randn(
        2, count, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return u, w


@pytest.mark.parametrize("concepts", [list("abcde"), list("abacb"), list("aaaaa")])
def test_golden(concepts: list[str]) -> None:
    u, w = (a.numpy() for a in embeddings())
    terms = Contrastive()(*embeddings(), SCALE, concepts)
    expected, accuracy = [], []
    for i in range(5):
        positives = [j for j in range(5) if concepts[j] == concepts[i]]
        total, right = 0.0, 0.0
        for one, other in ((u, w), (w, u)):
            cosines = [one[i] @ o / math.sqrt((one[i] @ one[i]) * (o @ o)) for o in other]
            partition = sum(math.exp(10.0 * c) for c in cosines)
            total -= sum(10.0 * cosines[j] - math.log(partition) for j in positives) / len(
                positives
            )
            right += cosines.index(max(cosines)) in positives
        expected.append(total / 2)
        accuracy.append(right / 2)
    np.testing.assert_allclose(terms.per_sample, expected, rtol=1e-12)
    assert terms.metrics["accuracy"].tolist() == accuracy


def test_the_mean_is_the_loss_of_transformers_clip() -> None:
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    u, w = (torch.nn.functional.normalize(a, dim=1) for a in embeddings())
    theirs = image_text_contrastive_loss(10.0 * w @ u.T)
    ours = Contrastive()(*embeddings(), SCALE, range(5)).per_sample.mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)


@given(st.permutations(range(5)), st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_order_does_not_matter(order: list[int], concepts: list[int]) -> None:
    u, w = embeddings()
    straight = Contrastive()(u, w, SCALE, concepts)
    mixed = Contrastive()(u[list(order)], w[list(order)], SCALE, [concepts[i] for i in order])
    torch.testing.assert_close(
        mixed.per_sample, straight.per_sample[list(order)], rtol=1e-12, atol=0
    )
    assert torch.equal(mixed.metrics["accuracy"], straight.metrics["accuracy"][list(order)])


def test_pictures_and_texts_are_treated_alike() -> None:
    u, w = embeddings()
    concepts = list("abacb")
    one, other = Contrastive()(u, w, SCALE, concepts), Contrastive()(w, u, SCALE, concepts)
    torch.testing.assert_close(one.per_sample, other.per_sample, rtol=1e-12, atol=0)


def test_length_of_an_embedding_does_not_matter() -> None:
    u, w = embeddings()
    lengths = torch.tensor([[0.1], [1.0], [2.0], [30.0], [5.0]], dtype=torch.float64)
    straight, scaled = (Contrastive()(a, w, SCALE, range(5)).per_sample for a in (u, u * lengths))
    torch.testing.assert_close(scaled, straight, rtol=1e-12, atol=0)


def test_embeddings_that_say_nothing_cost_log_of_the_batch() -> None:
    same = torch.ones(6, 3, dtype=torch.float64)
    terms = Contrastive()(same, same, SCALE, list("aabcde"))
    assert terms.per_sample.tolist() == pytest.approx([math.log(6)] * 6, rel=1e-12)


def test_a_perfect_space_reaches_the_least_value() -> None:
    """log of the number of positives, with every top-1 answer right."""
    concepts = [0, 0, 1, 2, 2, 2]
    axes = torch.eye(3, dtype=torch.float64)[concepts]
    terms = Contrastive()(axes, axes, torch.tensor(math.log(100.0)), concepts)
    least = [math.log(concepts.count(c)) for c in concepts]
    assert terms.per_sample.tolist() == pytest.approx(least, abs=1e-12)
    assert terms.metrics["accuracy"].tolist() == [1.0] * 6


def test_another_caption_of_the_same_concept_is_not_pushed_away() -> None:
    """Two texts of one concept: with one-hot targets the gradient would tear them apart."""
    axes = torch.eye(2, dtype=torch.float64)[[0, 0, 1]]
    for concepts, torn in (([0, 0, 1], False), ([0, 2, 1], True)):
        u = (axes + torch.tensor([[0.0, 0.1], [0.0, -0.1], [0.0, 0.0]])).requires_grad_()
        loss = Contrastive()(u, u.detach().clone(), SCALE, concepts).per_sample[:2].sum()
        (gradient,) = torch.autograd.grad(loss, u)
        # Row 0 has the larger second coordinate: descent would make it grow if torn apart.
        assert bool(gradient[0, 1] < gradient[1, 1]) == torn


def test_half_precision_is_widened_and_the_scale_learns() -> None:
    u, w = (a.bfloat16() for a in embeddings())
    scale = torch.tensor(2.0, requires_grad=True)
    terms = Contrastive()(u, w, scale, range(5))
    assert terms.per_sample.dtype == torch.float32
    terms.per_sample.mean().backward()
    assert scale.grad is not None
    assert scale.grad.isfinite()
    assert not terms.metrics["accuracy"].requires_grad


def test_same_concept() -> None:
    assert same_concept(["x", 7, "x"]).tolist() == [
        [True, False, True],
        [False, True, False],
        [True, False, True],
    ]


def test_accuracy_asks_both_ways() -> None:
    """Picture 1 is nearer to text 0 than to its own; text 1 still likes it best of all."""
    pictures, texts = torch.tensor([[1.0, 0.0], [1.0, 0.1]]), torch.eye(2)
    assert Contrastive()(pictures, texts, SCALE, [0, 1]).metrics["accuracy"].tolist() == [1.0, 0.5]


def test_autocast_rounds_no_logit() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures, texts = torch.randn(2, 8, 16, generator=generator)
    plain = Contrastive()(pictures, texts, torch.tensor(3.0), list("abcdefgh")).per_sample
    with torch.autocast("cpu", torch.bfloat16):
        cast = Contrastive()(pictures, texts, torch.tensor(3.0), list("abcdefgh")).per_sample
    assert torch.equal(plain, cast)
