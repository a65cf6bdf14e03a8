"""The divergence guard on made-up courses of a run."""

import pytest

from tastemaker.training.divergence import DivergenceRules, advice, judge


def course(*looks: tuple[float, float, float]) -> list[dict[str, float | None]]:
    """Rows of a log: (winner drift, loser drift, logit), with training rows between."""
    rows: list[dict[str, float | None]] = []
    for number, (winner, loser, logit) in enumerate(looks):
        rows.append({"images": float(number), "loss": 0.69, "validation/margin": None})
        rows.append(
            {
                "images": float(number),
                "validation/winner_drift": winner,
                "validation/loser_drift": loser,
                "validation/margin": logit / 2500,
                "validation/logit": logit,
            }
        )
    return rows


HEALTHY = (-0.01, 0.05, 1.0)


@pytest.mark.parametrize(
    ("looks", "level", "words"),
    [
        ([], "fine", ""),
        ([HEALTHY] * 5, "fine", ""),
        # The winner gets better, the loser much worse: what DPO is for.
        ([HEALTHY, (-0.02, 0.9, 5.0), (-0.02, 1.5, 5.5)], "fine", ""),
        ([HEALTHY, (0.03, 0.2, 2.0)], "fine", ""),  # once is chance
        ([HEALTHY, (0.03, 0.2, 2.0), (0.04, 0.3, 3.0)], "warn", "both errors rise"),
        ([(0.03, 0.2, 2.0), (0.04, 0.3, 3.0), HEALTHY], "fine", ""),  # it came back
        ([HEALTHY, (0.3, 0.9, 4.0), (0.4, 1.5, 5.0)], "stop", "winners' error"),
        ([HEALTHY, (-0.01, 0.1, 7.0), (-0.01, 0.1, 8.0)], "warn", "saturated"),
        ([HEALTHY, (-0.01, 0.1, 31.0)], "stop", "ran away"),
        ([HEALTHY, (0.03, -0.4, -31.0)], "stop", "ran away"),
        ([HEALTHY, (0.03, -0.2, -7.0), (0.03, -0.2, -7.0)], "warn", "losers are preferred"),
    ],
)
def test_courses(looks: list[tuple[float, float, float]], level: str, words: str) -> None:
    alarm = judge(course(*looks))
    assert alarm.level == level
    assert words in advice(alarm)
    assert bool(alarm.reasons) == (level != "fine")
    assert ("learning rate" in advice(alarm)) == (level != "fine")


def test_it_is_a_function_of_the_log_alone() -> None:
    """So a resumed run, which has the rows again, judges as one in one piece."""
    rows = course(HEALTHY, (0.3, 0.9, 4.0), (0.4, 1.5, 5.0))
    assert judge(rows) == judge(rows[2:]) == judge(list(rows))


def test_a_run_without_logits_has_no_alarm() -> None:
    """The baseline on winners has no beta; its rows are skipped."""
    assert judge([{"validation/winner_drift": 9.0, "validation/loser_drift": 9.0}]).level == "fine"


def test_rules_that_stop_before_they_warn_are_refused() -> None:
    with pytest.raises(ValueError, match="before"):
        DivergenceRules(warn_rise=0.5, stop_rise=0.1)
    with pytest.raises(ValueError, match="patience"):
        DivergenceRules(patience=0)
