"""Scores of an evaluate step, as a study compares them with people."""

from pathlib import Path

from tastemaker.store.scores import read_scores


def read_study_scores(path: Path) -> dict[str, dict[tuple[str, str], float]]:
    """Scorer -> (model, prompt id) -> value of the first picture, larger is better.

    Args:
        path: a `scores` folder, or the Parquet file in it.
    """
    file = path / "scores.parquet" if path.is_dir() else path
    found: dict[str, dict[tuple[str, str], float]] = {}
    for row in read_scores(file):
        if row["value"] is not None and row["sample_index"] == 0:
            sign = 1.0 if _higher_is_better(row["scorer"]) else -1.0
            own = found.setdefault(row["scorer"], {})
            own[row["model"], row["prompt_id"]] = sign * row["value"]
    return found


def _higher_is_better(scorer: str) -> bool:
    """Of its values; those of `concept` are ranks, of which one figure counts the first places."""
    from tastemaker.scorers.figures import FIGURES

    return all(figure.higher_is_better for figure in FIGURES.get(scorer, ()))
