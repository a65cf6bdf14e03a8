"""The file of verdicts: a row for every picture, the first rule that drops it, all that would."""

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tastemaker.curation.facts import Facts, objects
from tastemaker.curation.funnel import run_funnel
from tastemaker.curation.rules import Captioned, Range, Top
from tastemaker.errors import StorageError
from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tastemaker.store import base_table
from tastemaker.store.catalogue import Catalogue
from tastemaker.store.verdicts import write_verdicts

RULES = (Captioned(), Range(column="score", least=2, most=8), Top(column="score", count=1))
LABELS = [rule.label for rule in RULES]


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(base_table, "PART_ROWS", 2)
    made = Catalogue(tmp_path / "c")
    made.append_base([ImageRecord(n, f"/x/{n}", "s", n.upper(), Size(2, 3)) for n in "abcde"])
    return made


def funnel(rules=RULES):
    scores = np.array([1.0, 9.0, 5.0, 6.0, np.nan])
    captions = objects([(), ("b",), ("c",), ("d",), ("e",)])
    return run_funnel(Facts(list("abcde"), {"score": scores, "captions": captions}), rules)


def test_every_picture_has_its_verdict(catalogue, tmp_path):
    write_verdicts(tmp_path / "v.parquet", catalogue, funnel(), LABELS)
    table = pq.read_table(tmp_path / "v.parquet").to_pylist()
    assert [row["id"] for row in table] == list("abcde")
    assert [(row["source"], row["key"], row["path"]) for row in table][0] == ("s", "A", "/x/a")
    assert [row["kept"] for row in table] == [False, False, False, True, False]
    first, second, third = LABELS
    assert [row["rule"] for row in table] == [first, second, third, None, second]
    assert [row["failed"] for row in table] == [[first, second], [second], [], [], [second]]
    said = [(row["reason"], row["got"], row["limit"]) for row in table]
    assert said == [
        ("no caption", "0", "1"),
        ("score too high", "9", "at most 8"),
        ("not among the best: score", "5", "at least 6, one of the 1 highest"),
        (None, None, None),
        ("score unknown", "(unknown)", "at least 2 and at most 8"),
    ]


def test_without_rules_that_judge_alone_nothing_fails_alone(catalogue, tmp_path):
    only = (Top(column="score", count=2),)
    write_verdicts(tmp_path / "v.parquet", catalogue, funnel(only), ["top"])
    table = pq.read_table(tmp_path / "v.parquet")
    assert table["failed"].to_pylist() == [[]] * 5
    assert str(table.schema.field("failed").type).startswith("list<")


def test_a_full_disk_leaves_the_old_file(catalogue, tmp_path, monkeypatch):
    path = tmp_path / "v.parquet"
    write_verdicts(path, catalogue, funnel(), LABELS)
    before = path.read_bytes()

    def full(self, _target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(StorageError):
            write_verdicts(path, catalogue, funnel(RULES[:1]), LABELS[:1])
    assert path.read_bytes() == before
    write_verdicts(path, catalogue, funnel(), LABELS)
    assert path.read_bytes() == before, "the same verdicts are the same bytes"
