"""Looks at every validation of a preference run, says what goes wrong, and may end the run."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from tastemaker.training.divergence import (
    LOGIT,
    LOSER,
    MARGIN,
    WINNER,
    Alarm,
    DivergenceRules,
    advice,
    judge,
)

_PREFIX = "validation"
_NAMES = tuple(f"{_PREFIX}/{name}" for name in (WINNER, LOSER, MARGIN, LOGIT))


class DivergenceWatch:
    """Judges the last validations; a `training.task.Watch`.

    Attributes:
        ended: why the run must end; empty while it need not.
        said: the last thing that was said; empty while all is well.
    """

    def __init__(
        self,
        rules: DivergenceRules,
        action: Literal["off", "warn", "stop"],
        tell: Callable[[Alarm], None] = lambda alarm: None,
    ) -> None:
        """Watch by these rules.

        Args:
            rules: when to speak up.
            action: `off` never does, `stop` also ends the run where the alarm is a stop.
            tell: told of every alarm that is not the same as the last one.
        """
        self._rules, self._action, self._tell = rules, action, tell
        self._rows: list[dict[str, float]] = []
        self._level = "fine"
        self.ended = self.said = ""

    def look(self, figures: Mapping[str, float]) -> bool:
        """Whether all is well."""
        if self._action == "off" or not all(name in figures for name in _NAMES):
            return True
        self._rows.append({name: float(figures[name]) for name in _NAMES})
        self._rows = self._rows[-self._rules.patience :]
        alarm = judge(self._rows, self._rules, _PREFIX)
        if alarm.level != "fine":
            self.said = advice(alarm)
            if self._action == "stop" and alarm.level == "stop":
                self.ended = self.said
            if alarm.level != self._level:
                self._tell(alarm)
        self._level = alarm.level
        return alarm.level == "fine"

    def state(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return {"rows": self._rows, "level": self._level, "said": self.said, "ended": self.ended}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._rows = [dict(row) for row in state["rows"]]
        self._level, self.said, self.ended = state["level"], state["said"], state["ended"]
