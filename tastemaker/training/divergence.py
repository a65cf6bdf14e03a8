"""Whether preference training has gone wrong, from its figures on held-out pairs.

The documented failure of DPO is not a loss that rises: the margin grows while *both* errors rise,
the loser's faster, until pictures fall apart (huggingface/diffusers issue 6565). The loss looks
well all the time, so it is not looked at here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["fine", "warn", "stop"]

WINNER, LOSER, MARGIN, LOGIT = "winner_drift", "loser_drift", "margin", "logit"
"""What the figures are called behind `PREFIX/`; drifts are shares of the start model's errors."""


@dataclass(frozen=True)
class DivergenceRules:
    """When to speak up; all values are ours.

    Attributes:
        warn_rise: both errors above those of the start model by this share: a warning.
        stop_rise: the winner's error above it by this share: a stop.
        warn_logit: mean logit from which on most pairs have no gradient left (sigmoid(-6) is a
            quarter of a percent): a warning; below zero, that held-out losers are preferred.
        stop_logit: mean logit, of either sign, that no useful model reaches: a stop.
        patience: how many validations in a row must say so, but for a stop by the logit.
    """

    warn_rise: float = 0.02
    stop_rise: float = 0.25
    warn_logit: float = 6.0
    stop_logit: float = 30.0
    patience: int = 2

    def __post_init__(self) -> None:
        """Refuse rules that could never warn before they stop."""
        if not 0 < self.warn_rise <= self.stop_rise or not 0 < self.warn_logit <= self.stop_logit:
            raise ValueError("limits must be above 0, and a warning must come before a stop")
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}")


@dataclass(frozen=True)
class Alarm:
    """The judgement.

    Attributes:
        level: `fine`, `warn` or `stop`.
        reasons: a sentence each, empty when fine.
    """

    level: Level = "fine"
    reasons: tuple[str, ...] = ()


def judge(
    rows: Sequence[Mapping[str, float | None]],
    rules: DivergenceRules = DivergenceRules(),
    prefix: str = "validation",
) -> Alarm:
    """Look at the newest validations.

    Args:
        rows: logged figures, oldest first; rows without the figures of a validation are skipped.
        rules: the limits.
        prefix: what the figures' names begin with.

    Returns:
        A stop where any rule says so, else a warning where any does.
    """
    names = {name: f"{prefix}/{name}" for name in (WINNER, LOSER, MARGIN, LOGIT)}
    looks = [
        {name: float(row[key] or 0.0) for name, key in names.items()}
        for row in rows
        if all(row.get(key) is not None for key in names.values())
    ]
    if not looks:
        return Alarm()
    last, recent = looks[-1], looks[-rules.patience :]
    patient = len(recent) == rules.patience
    stops, warnings = [], []
    if abs(last[LOGIT]) >= rules.stop_logit:
        stops.append(f"the margin ran away: its mean logit is {last[LOGIT]:.4g}")
    elif patient and all(look[LOGIT] >= rules.warn_logit for look in recent):
        warnings.append(
            f"the margin is saturated: its mean logit is {last[LOGIT]:.4g}, so that most pairs "
            "teach nothing more"
        )
    elif patient and all(look[LOGIT] <= -rules.warn_logit for look in recent):
        warnings.append(f"losers are preferred: the margin's mean logit is {last[LOGIT]:.4g}")
    if patient and all(look[WINNER] >= rules.stop_rise for look in recent):
        stops.append(f"the winners' error is {last[WINNER]:.0%} above the start model's")
    elif patient and all(min(look[WINNER], look[LOSER]) >= rules.warn_rise for look in recent):
        warnings.append(
            f"both errors rise: winners {last[WINNER]:+.1%}, losers {last[LOSER]:+.1%} against the "
            "start model"
        )
    level: Level = "stop" if stops else "warn" if warnings else "fine"
    return Alarm(level, tuple(stops + warnings))


def advice(alarm: Alarm) -> str:
    """The alarm as a message that says what to do."""
    if alarm.level == "fine":
        return ""
    todo = "A lower learning rate, a larger beta or `guard: sdpo` holds the winners' error down."
    return f"{'; '.join(alarm.reasons)}. {todo}"
