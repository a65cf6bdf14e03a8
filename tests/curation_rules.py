"""Rules and facts for the tests of curation, in few words."""

import math
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from tastemaker.curation.facts import Facts, objects
from tastemaker.curation.rules import AnyRule
from tastemaker.records.image import Drop

NAN = math.nan


def rule(**values: Any) -> Any:
    return TypeAdapter(AnyRule).validate_python(values)


def facts(**columns) -> Facts:
    count = len(next(iter(columns.values())))
    values = {}
    for name, column in columns.items():
        plain = not isinstance(column, np.ndarray)
        if plain and any(isinstance(x, str | tuple | list) or x is None for x in column):
            column = objects(column)
        values[name.replace("__", ".")] = np.asarray(column)
    return Facts([f"id{i}" for i in range(count)], values)


def judged(rule, known: Facts, alive=None, find_copies=None):
    alive = np.ones(known.count, bool) if alive is None else np.array(alive, bool)
    return rule.judge(known, alive, find_copies)


def kept(rule, known: Facts, alive=None) -> list[int]:
    return np.flatnonzero(judged(rule, known, alive).keep).tolist()


def drops(rule, known: Facts, **options) -> dict[int, Drop]:
    judgement = judged(rule, known, **options)
    return {int(i): judgement.drop(int(i)) for i in np.flatnonzero(~judgement.keep)}
