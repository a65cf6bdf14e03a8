"""What a study says: only votes that count, seen from one side, and beside what scorers say."""

import numpy as np
import pytest

from tastemaker.errors import InputError
from tastemaker.records.vote import Vote
from tastemaker.scorers.figures import Figure, Measured
from tastemaker.scorers.people import counted_votes, votes_summary
from tastemaker.scorers.protocol import Origin
from tastemaker.stats.rater_table import rater_lines
from tastemaker.stats.study import disagreements, divided, scorer_agreement, study
from tastemaker.stats.votes import ballots

PROMPTS = [f"p{n:02d}" for n in range(12)]


def _votes(choices: dict[str, str], question: str = "general", a: str = "dpo") -> list[Vote]:
    """A letter a rater: d for dpo, b for base, t for a tie, x for both bad, s for a skip."""
    b = "base" if a == "dpo" else "dpo"
    said = {"d": "a" if a == "dpo" else "b", "b": "b" if a == "dpo" else "a"}
    said |= {"t": "tie", "x": "both_bad", "s": "skip"}
    return [
        Vote(
            f"{question}-{p}-{n}-{a}",
            p,
            a,
            b,
            "a" if (n + int(p[1:])) % 2 else "b",
            f"r{n}",
            said[letter],
            question,
            seconds=float(n + 1),
        )  # fmt: skip
        for p, letters in choices.items()
        for n, letter in enumerate(letters)
    ]


CLEAR = {p: "dddbb" if n < 9 else "bbbbd" for n, p in enumerate(PROMPTS)}


def test_rates_are_those_of_the_side_whichever_way_votes_are_stored() -> None:
    one = study(_votes(CLEAR), "dpo", "base", "general", resamples=200)
    other = study(_votes(CLEAR, a="base"), "dpo", "base", "general", resamples=200)
    assert one is not None
    assert other is not None
    assert one.verdict == other.verdict
    assert one.verdict.majority.rate.estimate == pytest.approx(9 / 12)
    assert one.alpha == other.alpha
    back = study(_votes(CLEAR), "base", "dpo", "general", resamples=200)
    assert back is not None
    assert back.verdict.majority.rate.estimate == pytest.approx(3 / 12)
    assert (back.alpha, back.alpha_interval) == (one.alpha, one.alpha_interval)
    ways = [rater_lines(_votes(CLEAR, a=a)) for a in ("dpo", "base")]
    trust = [[(line.rater, line.agrees, line.reliability) for line in lines] for lines in ways]
    assert trust[0] == trust[1]


def test_questions_and_sides_are_kept_apart() -> None:
    votes = _votes(CLEAR) + _votes(dict.fromkeys(PROMPTS, "b"), "text")
    votes.append(Vote("x", "p00", "dpo", "sft", "a", "r", "b"))
    general = study(votes, "dpo", "base", "general", resamples=200)
    text = study(votes, "dpo", "base", "text", resamples=200)
    assert general is not None
    assert text is not None
    assert general.verdict.votes == 60
    assert text.verdict.majority.rate.estimate == 0.0
    assert study(votes, "dpo", "sft", "general") is None


def test_raters_are_compared_with_the_others_only() -> None:
    contrary = dict.fromkeys(PROMPTS, "dddb")
    lines = {line.rater: line for line in rater_lines(_votes(contrary))}
    assert lines["r3"].agrees == 0.0
    # Without oneself, two of three others agree with r0: a majority, with r3 in it.
    assert lines["r0"].agrees == 1.0
    assert lines["r3"].reliability is not None
    assert (lines["r3"].votes, lines["r3"].skipped, lines["r3"].seconds) == (12, 0, 4.0)
    skipped = rater_lines(_votes(dict.fromkeys(PROMPTS, "dds")))
    assert {line.rater: line.skipped for line in skipped} == {"r0": 0, "r1": 0, "r2": 12}


def test_people_disagree_most_where_they_are_evenly_split() -> None:
    votes = _votes({"p00": "ddddd", "p01": "dddbb", "p02": "ddbb", "p03": "dbttt", "p04": "db"})
    found = divided(ballots(votes, "dpo", "base"))
    assert [one.prompt for one in found] == ["p02", "p03", "p04", "p01"]
    assert (found[1].side, found[1].reference, found[1].neither) == (1, 1, 3)


def test_disagreements_are_sorted_by_how_clear_both_are() -> None:
    votes = _votes({"p00": "ddddd", "p01": "dddbb", "p02": "bbbbb", "p03": "tttdb", "p04": "ddddd"})
    found = study(votes, "dpo", "base", "general", resamples=200)
    assert found is not None
    by_prompt = ballots(votes, "dpo", "base")
    gains = {"p00": -1.0, "p01": -1.0, "p02": -2.0, "p03": 5.0, "p04": 1.0}
    apart = disagreements(by_prompt, found.verdict, gains)
    # p02: people chose base and so did the scorer; p03 has no winner; p04 agrees.
    assert [one.prompt for one in apart] == ["p00", "p01"]
    assert [one.people for one in apart] == [1.0, pytest.approx(0.6)]
    agreement = scorer_agreement(found.verdict, gains, level=0.95, resamples=200, seed=0)
    assert agreement is not None
    assert (agreement.estimate, agreement.units) == (0.5, 4)


def _figure(gains: dict[str, float]) -> Measured:
    sides = {"base": {p: [0.0] for p in gains}, "dpo": {p: [v] for p, v in gains.items()}}
    origin = Origin("looks", "1", "b", "p", "points", True)
    return Measured(Figure("looks", "points", True, "aesthetics"), origin, sides)


def test_only_random_votes_on_compared_prompts_count() -> None:
    votes = _votes(CLEAR)
    votes += [
        Vote("g", "p00", "dpo", "base", "a", "r", "b", reason="gold"),
        Vote("h", "p00", "dpo", "sft", "a", "r", "b"),
        Vote("i", "p99", "dpo", "base", "a", "r", "b"),
    ]
    figure = _figure(dict.fromkeys(PROMPTS, 1.0))
    groups = {"category": {"x": PROMPTS[:6], "y": PROMPTS[6:]}}
    counted = counted_votes(votes, PROMPTS, ["base", "dpo"], "base")
    judges = {"looks": figure.gains}
    summary = votes_summary(counted, judges, groups, [("dpo", "base")], resamples=200)
    assert (summary["votes"], summary["used"]) == (63, 60)
    assert next(line["gold"] for line in summary["raters"] if line["rater"] == "r") == (0, 1)
    assert summary["left_out"] == {
        "pairs not drawn at random (gold)": 1,
        "between other sides": 1,
        "of other prompts": 1,
    }
    (question,) = summary["questions"]
    (table,) = question["grouped"]
    assert table["level_each"] == pytest.approx(0.975)
    assert [row["verdict"]["majority"]["rate"]["estimate"] for row in table["groups"]] == [1.0, 0.5]
    (beside,) = question["scorers"]
    assert beside["agreement"]["estimate"] == pytest.approx(9 / 12)
    assert beside["disagreements"] == 3


def test_votes_between_other_sides_are_refused() -> None:
    said = r"60 between other sides\); they are between base, dpo.*Name the sides as the study"
    with pytest.raises(InputError, match=said):
        counted_votes(_votes(CLEAR), PROMPTS, ["before", "after"], "before")
    few = counted_votes(_votes({"p00": "ddd"}), PROMPTS, ["base", "dpo"], "base")
    with pytest.raises(InputError, match="votes on one prompt"):
        votes_summary(few, {}, {}, [("dpo", "base")])


def test_one_rater_has_no_reliability_and_no_agreement() -> None:
    found = study(_votes(dict.fromkeys(PROMPTS, "d")), "dpo", "base", "general", resamples=200)
    assert found is not None
    assert found.alpha is None
    (line,) = rater_lines(_votes(dict.fromkeys(PROMPTS, "d")))
    assert (line.reliability, line.agrees) == (None, None)
    assert found.bias is not None
    assert np.isclose(found.bias.shown_left, 0.5)
