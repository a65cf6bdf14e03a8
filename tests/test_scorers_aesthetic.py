"""The LAION head: the exact affine form, golden values of the real file, and hostile files."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tastemaker.errors import InputError
from tastemaker.scorers.aesthetic import Aesthetic, LinearHead
from tastemaker.scorers.operation import Subject

LAYERS = {0: (1024, 768), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
SMALL = {0: (7, 6), 2: (5, 7), 4: (4, 5), 6: (3, 4), 7: (1, 3)}


@pytest.fixture(scope="module")
def real(assets: Path) -> Path:
    folder = assets / "christophschuhmann__improved-aesthetic-predictor"
    path = folder / "sac+logos+ava1-l14-linearMSE.pth"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {folder}")
    return path


def forward(path: Path, vectors: np.ndarray) -> np.ndarray:
    """The head as it was trained: five layers, one after the other, in float32."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    values = torch.from_numpy(vectors.astype(np.float32))
    for n in LAYERS:
        values = values @ state[f"layers.{n}.weight"].T + state[f"layers.{n}.bias"]
    return values[:, 0].numpy()


def unit(rows: int, width: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def small_layers(shapes: dict[int, tuple[int, int]] | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    found = {}
    for n, shape in (shapes or SMALL).items():
        found[f"layers.{n}.weight"] = rng.normal(size=shape).astype(np.float32)
        found[f"layers.{n}.bias"] = rng.normal(size=shape[0]).astype(np.float32)
    return found


def subject(vector: Any, column: str = "embedding") -> Subject:
    return Subject("a", columns={column: {"vector": vector}})


def test_golden_values_of_the_real_head(real: Path) -> None:
    head = LinearHead.read(real)
    length = float(np.linalg.norm(head.weights))
    assert head.weights.shape == (768,)
    assert round(length, 3) == 17.996
    assert round(head.bias, 4) == 5.2366
    assert [round(head.bias - length, 1), round(head.bias + length, 1)] == [-12.8, 23.2]
    best = head.weights / length
    assert round(head(best), 1) == 23.2
    scores = np.array([head(vector) for vector in unit(4000, 768)])
    assert abs(scores.mean() - 5.24) < 0.05
    assert abs(scores.std() - 0.64) < 0.03


def test_collapsed_equals_the_five_layers(real: Path) -> None:
    """Two float32 forwards of the head differ by as much; the affine form is summed in float64."""
    head, vectors = LinearHead.read(real), unit(500, 768, 1)
    ours = np.array([head(vector) for vector in vectors])
    state = torch.load(real, map_location="cpu", weights_only=True)
    exact = vectors
    for n in LAYERS:
        exact = exact @ state[f"layers.{n}.weight"].double().numpy().T
        exact = exact + state[f"layers.{n}.bias"].double().numpy()
    np.testing.assert_allclose(ours, exact[:, 0], atol=1e-12)
    # 1e-6 of a score of 5 is two units in the last place of float32.
    np.testing.assert_allclose(ours, forward(real, vectors), atol=1e-6, rtol=2e-7)


def test_collapsed_file_gives_the_same(real: Path) -> None:
    collapsed = LinearHead.read(real.with_name("sac_logos_ava1_l14_linear_collapsed.npz"))
    for vector in unit(50, 768, 2):
        assert collapsed(vector) == pytest.approx(LinearHead.read(real)(vector), abs=2e-6)


def test_all_file_kinds_hold_the_same_head(tmp_path: Path) -> None:
    layers = small_layers()
    torch.save({k: torch.from_numpy(v) for k, v in layers.items()}, tmp_path / "a.pth")
    save_file(layers, tmp_path / "b.safetensors")
    head = LinearHead.read(tmp_path / "a.pth")
    np.savez(tmp_path / "c.npz", w=head.weights, b=head.bias)
    save_file(
        {"weight": head.weights[None], "bias": np.array([head.bias])}, tmp_path / "d.safetensors"
    )
    (tmp_path / "only").mkdir()
    (tmp_path / "a.pth").rename(tmp_path / "only" / "a.pth")
    vector = unit(1, 6)[0]
    expected = vector
    for n in SMALL:
        expected = layers[f"layers.{n}.weight"].astype(float) @ expected
        expected = expected + layers[f"layers.{n}.bias"]
    for name in ("only", "b.safetensors", "c.npz", "d.safetensors"):
        assert LinearHead.read(tmp_path / name)(vector) == pytest.approx(expected[0], abs=1e-9)


class Attack:
    """What a pickle can do: run anything when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    touched, path = tmp_path / "touched", tmp_path / "head.pth"
    if zipped:
        torch.save({"layers.0.weight": Attack(touched)}, path)
    else:
        path.write_bytes(pickle.dumps(Attack(touched)))
    with pytest.raises(InputError, match="no head") as caught:
        LinearHead.read(path)
    assert not touched.exists()
    assert "head.pth" in str(caught.value)
    # It does what it says when opened without care.
    torch.load(path, weights_only=False) if zipped else pickle.loads(path.read_bytes())
    assert touched.exists()


def test_other_heads_are_refused(tmp_path: Path) -> None:
    relu = small_layers(dict(zip((0, 3, 6, 9, 11), SMALL.values(), strict=True)))
    save_file(relu, tmp_path / "relu.safetensors")
    save_file(
        {**small_layers(), "layers.2.weight": np.ones((5, 9), np.float32)},
        tmp_path / "unchained.safetensors",
    )
    nan = {**small_layers(), "layers.7.bias": np.array([np.nan], np.float32)}
    save_file(nan, tmp_path / "nan.safetensors")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    np.savez(tmp_path / "objects.npz", w=np.array([{}], object), b=np.array(0.0))
    (tmp_path / "head.txt").touch()
    for name in ("relu.safetensors", "unchained.safetensors", "nan.safetensors"):
        with pytest.raises(InputError, match="linear LAION"):
            LinearHead.read(tmp_path / name)
    for name in ("broken.npz", "objects.npz", "head.txt"):
        with pytest.raises(InputError, match="linear LAION"):
            LinearHead.read(tmp_path / name)
    with pytest.raises(InputError, match="5 heads"):
        LinearHead.read(tmp_path)


def test_rows_that_cannot_be_scored_say_why(tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    np.savez(path, w=np.arange(6.0), b=2.0)
    operation = Aesthetic(head=str(path), embedding="vit")
    assert operation.reads == ("vit",)
    assert not operation.needs_pixels
    measure = operation.open({"head": path}, "cpu")
    vector = unit(1, 6)[0]
    rows = [
        subject(vector.astype(np.float16), "vit"),
        subject((vector * 10.3).tolist(), "vit"),
        subject(unit(1, 7)[0], "vit"),
        subject(vector * np.nan, "vit"),
        subject(vector),
        subject((vector * 0.9985).tolist(), "vit"),
    ]
    good, *bad = measure(rows)
    assert good["score"] == pytest.approx(vector @ np.arange(6.0) + 2.0, abs=0.01)
    assert [row["error"] for row in bad] == [
        "embedding is not normalised: its length is 10.3, not 1",
        "embedding of 7 numbers; this model takes 6",
        "embedding is not normalised: its length is nan, not 1",
        "no embedding in column 'vit'",
        "embedding is not normalised: its length is 0.9985, not 1",
    ]


def test_storage_in_half_precision_stays_within_the_tolerance() -> None:
    """The worst vectors for rounding: all numbers just between two float16 values."""
    for width in (512, 768, 1152):
        for vector in (*unit(200, width, 4), np.full(width, width**-0.5)):
            stored = vector.astype(np.float16).astype(np.float64)
            assert abs(np.linalg.norm(stored) - 1) < 2**-11
