"""What a check found before the first step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is, or may be, wrong.

    Attributes:
        where: the recipe key, file or option.
        problem: what is wrong: what was got and what was expected.
        todo: what to do about it, a full sentence.
        fatal: whether the run would fail; False is a warning.
    """

    where: str
    problem: str
    todo: str
    fatal: bool = True
