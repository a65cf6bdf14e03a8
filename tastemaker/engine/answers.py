"""What crosses to a worker and back, as bytes: one form for all workers, so one set of outcomes."""

import math
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from tastemaker.engine.trial import Attempt
from tastemaker.errors import StorageError, TastemakerError

Work = Callable[[Sequence[Any]], Sequence[Any]]
"""The opened function of a shard: as many values as rows."""


class WorkError(TastemakerError):
    """An error of the function whose class cannot cross process borders, as text."""


def attempt(work: Work, rows: Sequence[Any]) -> Attempt:
    """Call the function; what is wrong with the call is said in the result."""
    try:
        values = list(work(rows))
        if len(values) != len(rows):
            # Which row a value belongs to would be a guess.
            raise TastemakerError(f"the function gave {len(values)} values for {len(rows)} rows")
        return Attempt(values)
    except Exception as error:
        return Attempt(error=portable(error))


def portable(error: Exception) -> Exception:
    """The error itself when it survives pickling unchanged, else its text.

    Without any process, too, so that an error reads the same wherever the work is done.
    """
    try:
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
        text = str(error)
    except Exception:
        text = _text(error)
    if isinstance(error, StorageError):
        return StorageError(text)
    stand_in = WorkError(f"{type(error).__name__}: {text}")
    stand_in.__cause__ = error
    return stand_in


def pack(value: Any) -> bytes:
    """Anything as bytes.

    Raises:
        Exception: it does not pickle.
    """
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def open_work(opener: bytes, device: str, cpus: float) -> tuple[Work | None, bytes]:
    """In a worker: the opened function, and the answer to the driver (see `check_opened`)."""
    try:
        work = pickle.loads(opener)(device)
    except Exception as error:
        return None, _pack_answer(Attempt(error=portable(error)))
    torch = sys.modules.get("torch")
    if torch is not None and cpus > 0:
        # Otherwise each of n workers takes all n cores.
        torch.set_num_threads(min(torch.get_num_threads(), math.ceil(cpus)))
    return work, _pack_answer(Attempt())


def check_opened(answer: bytes) -> None:
    """In the driver.

    Raises:
        Exception: what the opener raised.
    """
    error = read(answer).error
    if error is not None:
        raise error


def answer(work: Work, request: bytes) -> bytes:
    """In a worker: do what is asked for; nothing but a death or a `BaseException` ends it."""
    try:
        rows = pickle.loads(request)
    except Exception as error:
        return _pack_answer(Attempt(error=portable(error)))
    return _pack_answer(attempt(work, rows))


def read(answer: bytes) -> Attempt:
    """In the driver: what the worker found; an error has the worker's traceback as a note."""
    try:
        values, error, where = pickle.loads(answer)
    except Exception as unreadable:
        return Attempt(error=portable(unreadable))
    if error is not None:
        error.add_note(f"In a worker:\n{where}")
    return Attempt(values, error)


def _pack_answer(found: Attempt) -> bytes:
    if found.error is None:
        try:
            return pack((found.values, None, ""))
        except Exception as error:  # a value does not pickle
            found = Attempt(error=portable(error))
    where = "".join(traceback.format_exception(found.error))
    return pack(((), found.error, where))


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be made)"
