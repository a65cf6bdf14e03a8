"""The charts and the contact sheet of a report."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tastemaker.report import plots
from tastemaker.report.grids import RowOfPictures, write_sheet
from tastemaker.report.panel import Curve, Panel
from tastemaker.report.plots import panel_svg, training_panels


def test_a_log_with_gaps_and_nulls_is_drawn() -> None:
    rows = [
        {"images": 0, "loss": None, "validation/loss": 2.0},
        {"images": 10, "loss": 1.0},
        {"images": 20, "loss": 0.5, "validation/loss": 1.0, "validation/accuracy": 0.1},
    ]
    panels = training_panels(rows)
    assert [panel.title for panel in panels] == ["On fixed pictures and noise", "Training loss"]
    assert panels[0].curves == (Curve("validation", (0.0, 20.0), (2.0, 1.0)),)
    assert panels[1].curves[0].values == (1.0, 0.5)
    assert training_panels([]) == []


def test_a_chart_is_the_same_twice_and_differs_by_salt() -> None:
    panel = Panel("A <b> title", "", (Curve("", (0, 1), (0.1, 0.2)),))
    first = panel_svg(panel, "a1")
    assert first == panel_svg(panel, "a1")
    assert first.startswith("<svg role=")
    assert "<style" not in first
    assert "<b>" not in first
    ids = re.findall(r'id="([^"]+)"', first)
    assert ids
    assert all(name.startswith("a1-") for name in ids)


def test_ticks_in_percent_are_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded ones read 0, 2, 3, 4, 6 %: no even steps."""
    shown: list[tuple[float, str]] = []
    real = plots._percent
    monkeypatch.setattr(
        plots, "_percent", lambda v, n: (shown.append((v, real(v, n))), real(v, n))[1]
    )
    for end in (0.07, 0.0075, 1.0, -0.0065):
        panel_svg(Panel("P", "", (Curve("", (0, 1), (0.0, end)),), unit="share"), "a1")
    assert len(shown) > 16
    for value, text in shown:
        number = float(text.removesuffix("\u202f%").replace("\u2212", "-"))
        assert number == pytest.approx(100 * value, abs=1e-9), text


def test_the_sheet_holds_pictures_side_by_side(tmp_path: Path) -> None:
    red, blue = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    rows = [RowOfPictures("a very long prompt " * 9, [red, blue]), RowOfPictures("b", [None, red])]
    sides = ["before", "after"]
    write_sheet(tmp_path / "sheet.png", sides, rows, tiles=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert (sheet == [255, 0, 0]).all(axis=-1).sum() == 2 * 128 * 128
    assert (sheet == [0, 0, 255]).all(axis=-1).sum() == 128 * 64
    with pytest.raises(ValueError, match="at least one row"):
        write_sheet(tmp_path / "none.png", sides, [])


def test_errors_by_timestep_are_drawn_over_timesteps() -> None:
    def row(images: int, scale: float, grid: str = "validation") -> dict[str, float]:
        values = {f"{grid}/loss_t{t}": scale * (t + 1) for t in (50, 550, 950)}
        return {"images": images, f"{grid}/loss": scale, **values}

    rows = [row(0, 2.0), {"images": 10, "loss": 1.0}, row(40, 1.5), row(60, 1.25), row(100, 1.0)]
    panel = next(p for p in training_panels(rows) if p.title == "Error by timestep")
    assert panel.axis == "timestep"
    assert [curve.label for curve in panel.curves] == ["start", "half way", "end"]
    assert {curve.images for curve in panel.curves} == {(50.0, 550.0, 950.0)}
    assert panel.curves[1].values == (1.5 * 51, 1.5 * 551, 1.5 * 951)
    assert "timestep</text>" in panel_svg(panel, "a") or "timestep" in panel_svg(panel, "a")
    (two,) = [p for p in training_panels(rows[:3]) if p.axis == "timestep"]
    assert [curve.label for curve in two.curves] == ["start", "end"]
    # Without held-out pictures the trained ones are shown, and a row with a gap is passed over.
    trained = [row(0, 2.0, "stable"), row(10, 1.0, "stable") | {"stable/loss_t50": None}]
    (one,) = [p for p in training_panels(trained) if p.axis == "timestep"]
    assert [curve.label for curve in one.curves] == ["end"]
    assert "trained pictures" in one.note


def test_how_often_the_gradient_was_clipped_is_drawn() -> None:
    rows = [{"images": i, "grad_norm": 1.0, "clipped_share": i / 100} for i in (10, 20)]
    panel = training_panels(rows)[-1]
    assert (panel.title, panel.curves[0].values) == ("Clipped steps", (0.1, 0.2))
