"""The training log: three forms of the same rows, the same after a resume."""

import csv

import pytest

from tastemaker.store.trainlog import TrainLog
from tests.curves_on_disk import curves_on_disk


def cells(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def board(folder, name):
    points = curves_on_disk(folder / "tensorboard")
    return [(images, value) for tag, images, value in points if tag == name]


def test_the_three_forms_agree(tmp_path):
    with TrainLog(tmp_path) as log:
        log.scalars(8, {"loss": 0.5, "lr": 1e-4})
        log.scalars(16, {"loss": 0.25, "lr": 1e-5})
        assert log.rows() == [
            {"images": 8, "loss": 0.5, "lr": 1e-4},
            {"images": 16, "loss": 0.25, "lr": 1e-5},
        ]
    assert cells(tmp_path) == [
        ["images", "loss", "lr"], ["8", "0.5", "0.0001"], ["16", "0.25", "1e-05"],
    ]  # fmt: skip
    assert board(tmp_path, "loss") == [(8, 0.5), (16, 0.25)]


def test_a_new_name_becomes_a_new_column(tmp_path):
    with TrainLog(tmp_path) as log:
        log.scalars(8, {"loss": 0.5})
        log.scalars(8, {"validation/loss": 0.75})
        log.scalars(16, {"loss": 0.25})
    assert cells(tmp_path) == [
        ["images", "loss", "validation/loss"],
        ["8", "0.5", ""],
        ["8", "", "0.75"],
        ["16", "0.25", ""],
    ]


def test_a_resume_forgets_what_came_after_the_checkpoint(tmp_path):
    def write(log, images):
        log.scalars(images, {"loss": images / 8, **({"late": 1.0} if images > 16 else {})})

    with TrainLog(tmp_path / "straight") as log:
        for images in (8, 16, 24, 32):
            write(log, images)
    with TrainLog(tmp_path / "resumed") as log:
        for images in (8, 16, 24):
            write(log, images)
    with (tmp_path / "resumed" / "metrics.jsonl").open("a") as file:
        file.write('{"images": 3')  # torn by the kill
    with TrainLog(tmp_path / "resumed", resume_at=16) as log:
        assert cells(tmp_path / "resumed") == [["images", "loss"], ["8", "1.0"], ["16", "2.0"]]
        for images in (24, 32):
            write(log, images)
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "straight" / name).read_text() == (
            tmp_path / "resumed" / name
        ).read_text()
    assert board(tmp_path / "resumed", "loss") == [(8, 1.0), (16, 2.0), (24, 3.0), (32, 4.0)]
    assert board(tmp_path / "resumed", "late") == [(24, 1.0), (32, 1.0)]


def test_a_new_start_removes_the_old_rows(tmp_path):
    for value in (1.0, 2.0):
        with TrainLog(tmp_path) as log:
            log.scalars(0, {"loss": value})
    assert cells(tmp_path) == [["images", "loss"], ["0", "2.0"]]
    assert board(tmp_path, "loss") == [(0, 2.0)]


def test_a_number_that_is_not_finite_is_an_empty_cell(tmp_path):
    with TrainLog(tmp_path) as log:
        log.scalars(8, {"loss": float("nan"), "norm": float("inf")})
        assert log.rows() == [{"images": 8, "loss": None, "norm": None}]
    assert cells(tmp_path)[1] == ["8", "", ""]


def test_a_value_named_images_is_refused(tmp_path):
    with TrainLog(tmp_path) as log, pytest.raises(ValueError, match="position"):
        log.scalars(8, {"images": 1.0})
