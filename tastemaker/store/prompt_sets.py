"""Prompt sets on disk: one JSON line that describes the set, then one line a prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.codec import from_json, to_json
from tastemaker.records.generation import Prompt, PromptSet
from tastemaker.store import jsonl
from tastemaker.store.atomic import atomic_file
from tastemaker.store.hashing import hash_json


def make_prompt_set(
    name: str, prompts: Sequence[Prompt], *, version: str = "1", licence: str = ""
) -> PromptSet:
    """A prompt set with its hash, which covers ids, texts and attributes in their order.

    Raises:
        InputError: no prompt, or two with one id.
    """
    ids = [prompt.id for prompt in prompts]
    twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if not prompts or twice:
        got = f"the id {twice[0]!r} more than once" if twice else "no prompt"
        raise InputError(
            f"prompt set {name}", got, "at least one prompt, each with an id of its own", "Mend it."
        )
    digest = hash_json([to_json(prompt) for prompt in prompts])
    return PromptSet(name, version, tuple(prompts), licence, digest)


def write_prompt_set(path: Path | str, prompts: PromptSet) -> None:
    """Write the whole file atomically."""
    head: dict[str, Any] = {
        "prompt_set": prompts.name,
        "version": prompts.version,
        "licence": prompts.licence,
        "hash": prompts.hash,
        "count": len(prompts.prompts),
    }
    with atomic_file(path) as temporary:
        for line in (head, *(to_json(prompt) for prompt in prompts.prompts)):
            jsonl.append(temporary, line)


def read_prompt_set(path: Path | str) -> PromptSet:
    """Read what `write_prompt_set` wrote.

    Raises:
        InputError: there is no such file, or it is no prompt set, or cut short.
        CorruptFile: it was edited by hand.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no file", "a prompt set", "Run the step that makes the prompts.")
    try:
        lines = list(jsonl.read(path))
        head = lines[0]
        prompts = [from_json(Prompt, line) for line in lines[1:]]
        found = make_prompt_set(
            head["prompt_set"], prompts, version=head["version"], licence=head["licence"]
        )
    except (IndexError, KeyError, TypeError, ValueError, CorruptFile) as error:
        raise InputError(
            path, "no prompt set, or one that was cut short",
            "a prompt set as a prompts step of a recipe writes it",
            "Name the run with that step; it reads texts, benchmarks and the captions of pictures.",
        ) from error  # fmt: skip
    if found.hash != head["hash"]:
        raise CorruptFile(
            f"{path}: {len(prompts)} prompts do not match the hash in the first line. "
            "Make the set again instead of editing it."
        )
    return found
