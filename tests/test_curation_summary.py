"""curation.json: every section says what the verdicts and columns say."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from tastemaker.records.image import ImageRecord
from tastemaker.records.size import Size
from tests.curating import Curating, collected, noise, recorded, save

RULES = [
    {"rule": "captioned"},
    {"rule": "range", "column": "short_side", "least": 64},
    {"rule": "range", "column": "pixels.flat_share", "most": 0.99},
    {"rule": "duplicates"},
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(curation, its curation.json) of ten pictures of which six are kept."""
    folder = tmp_path_factory.mktemp("summary")
    pictures = folder / "pictures"
    for n in range(6):
        save(pictures / f"good{n}.png", noise(n, 96, 96 + 16 * n))
    save(pictures / "twin.png", np.asarray(Image.fromarray(noise(0)).resize((80, 80))))
    save(pictures / "blank.jpg", np.full((96, 96, 3), 255, np.uint8))
    save(pictures / "nocaption.png", noise(21), None)
    save(pictures / "small.png", noise(22, 63, 90))
    (pictures / "bad.png").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        work = Curating(folder, collected(folder / "collect", pictures), patch)
        work(columns=[{"kind": "pixels"}], rules=RULES, buckets={"side_px": 96, "batch": 2})
        return work, json.loads((work.step.path / "curation.json").read_text())


def test_the_funnel_counts_pictures(found):
    _, summary = found
    assert (summary["pictures"], summary["kept"]) == (11, 6)
    assert summary["errors"] == {"unreadable: zero bytes": 1}
    stages = summary["funnel"]["stages"]
    assert [stage["label"] for stage in stages][:2] == ["readable", "captioned"]
    assert [stage["before"] for stage in stages] == [11, 10, 9, 8, 7]
    assert [stage["after"] for stage in stages] == [10, 9, 8, 7, 6]
    assert [stage["alone"] for stage in stages] == [0, 1, 1, 1, None]
    assert stages[2]["reasons"] == {"short_side too low": 1}
    assert set(stages[0]["means"]) >= {"short_side", "pixels.flat_share"}
    assert stages[-1]["means"]["short_side"] == 96


def test_columns_say_how_much_is_measured(found):
    work, summary = found
    (column,) = summary["columns"]
    assert (column["name"], column["kind"]) == ("pixels", "pixels")
    assert (work.catalogue.path / "catalog" / "col" / column["folder"]).is_dir()
    assert (column["measured"], column["missing"], column["errors"]) == (10, 1, {})


def test_histograms_count_every_readable_picture(found):
    _, summary = found
    by_name = {one["column"]: one for one in summary["histograms"]}
    assert list(by_name)[:2] == ["short_side", "pixels.flat_share"], "those of rules come first"
    assert {"aspect", "megapixels", "pixels.sharpness"} <= set(by_name)
    for one in summary["histograms"]:
        assert len(one["edges"]) == len(one["kept"]) + 1 == len(one["dropped"]) + 1
        for side, total in (("kept", 6), ("dropped", 4)):
            outside = sum(one[name][side == "dropped"] if isinstance(one[name], list) else 0
                          for name in ("below", "above", "unknown"))  # fmt: skip
            assert sum(one[side]) + outside <= total
    assert by_name["short_side"]["limits"] == [64]
    assert sum(by_name["short_side"]["kept"]) == 6


def test_borders_show_pictures_on_both_sides(found):
    _, summary = found
    (small,) = [one for one in summary["borders"] if one["column"] == "short_side"]
    assert [one["name"] for one in small["dropped"]] == ["small.png"]
    assert small["dropped"][0]["limit"] == "at least 64"
    assert small["kept"][0]["value"] >= 64
    assert {one["rule"] for one in summary["borders"]} >= {"captioned", "short_side >= 64"}


def test_duplicates_are_clusters(found):
    _, summary = found
    (rule,) = summary["duplicates"]
    assert (rule["clusters"], rule["dropped"]) == (1, 1)
    (cluster,) = rule["largest"]
    assert cluster["kept"]["name"] == "good0.png"
    assert cluster["size"] == 2
    assert [one["name"] for one in cluster["copies"]] == ["twin.png"]
    assert cluster["copies"][0]["got"].endswith("from good0.png")


def test_formats_and_buckets(found):
    _, summary = found
    assert {one["name"]: (one["kept"], one["dropped"]) for one in summary["formats"]} == {
        "PNG": (6, 3), "JPEG": (0, 1),
    }  # fmt: skip
    buckets = summary["buckets"]
    assert (buckets["side_px"], buckets["batch"], buckets["assignment"]) == (96, 2, "cover")
    assert sum(row["pictures"] for row in buckets["rows"]) + buckets["not_fitting"] == 6
    for row in buckets["rows"]:
        assert row["full_batches"] * 2 + row["leftover"] == row["pictures"]
    assert summary["concepts"] is None


def test_words_before_and_after(tmp_path, monkeypatch):
    """Concepts are of tags where no nouns were found; nothing needs a picture."""
    records = [
        ImageRecord(
            f"i{n}", "p", "s", f"k{n}", Size(100, 100), tags=("cat", "dog")[: 1 + n % 2],
            captions=("a",) if n < 20 else (),
        )
        for n in range(40)
    ]  # fmt: skip
    work = Curating(tmp_path, recorded(tmp_path, records), monkeypatch)
    work(rules=[{"rule": "captioned"}])
    concepts = json.loads((work.step.path / "curation.json").read_text())["concepts"]
    assert concepts["of"] == "tags"
    assert concepts["before"]["curve"] != concepts["after"]["curve"]
    assert set(concepts) == {"of", "before", "after", "shifts"}


def test_sizes_that_nobody_knows_break_nothing(tmp_path, monkeypatch):
    records = [ImageRecord(f"i{n}", "p", "s", f"k{n}", None) for n in range(3)]
    work = Curating(tmp_path, recorded(tmp_path, records), monkeypatch)
    work(rules=[])
    text = (work.step.path / "curation.json").read_text()
    assert "NaN" not in text
    summary = json.loads(text)
    assert summary["kept"] == 3
    assert summary["buckets"]["not_fitting"] == 3
