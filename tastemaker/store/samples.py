"""Generated pictures on disk: a folder with the files and `samples.jsonl`, one line a picture.

Of several processes that draw one set, the second writes `samples-1.jsonl`, and so on; all of them
are read as one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from tastemaker.errors import CorruptFile, InputError
from tastemaker.records.codec import from_json
from tastemaker.records.generation import Sample
from tastemaker.store import jsonl

SAMPLES = "samples.jsonl"


def manifest_name(number: int) -> str:
    """Where process `number`, from 0, writes its lines."""
    return f"samples-{number}.jsonl" if number else SAMPLES


def manifest_files(folder: Path | str) -> list[Path]:
    """The files of lines that are in a folder, in order of their processes."""
    others = {p for p in Path(folder).glob("samples-*.jsonl") if p.stem[8:].isdigit()}
    first = Path(folder) / SAMPLES
    ordered = sorted(others, key=lambda path: int(path.stem[8:]))
    return [*([first] if first.is_file() else []), *ordered]


@dataclass(frozen=True)
class SampleSet:
    """The pictures of one model for one prompt set.

    Attributes:
        folder: where the files lie.
        samples: those whose file is there, by prompt id and index.
        missing: (prompt id, sample index) of what a complete set has besides; every prompt needs as
            many pictures as the richest one.
    """

    folder: Path
    samples: tuple[Sample, ...]
    missing: tuple[tuple[str, int], ...]

    def only(self, prompt_ids: Collection[str]) -> "SampleSet":
        """The samples of some prompts."""
        return replace(self, samples=tuple(s for s in self.samples if s.prompt_id in prompt_ids))

    def path(self, sample: Sample) -> Path:
        """Where a sample's file lies."""
        return self.folder / sample.file


def read_samples(folder: Path | str) -> list[Sample]:
    """The lines of all processes, whether or not their files are there, by prompt id and index.

    A row that was written twice, as after a kill, counts once: the last one. Columns that a
    `Sample` does not have are passed over.

    Raises:
        InputError: there is no `samples.jsonl`.
        CorruptFile: a line is no sample.
    """
    files = manifest_files(folder)
    if not files:
        raise InputError(folder, f"no {SAMPLES}", "generated pictures", "Run the generate step.")
    rows: dict[tuple[str, int], Sample] = {}
    for path in files:
        for number, line in enumerate(jsonl.read(path), start=1):
            try:
                sample = from_json(Sample, {k: line[k] for k in Sample.__dataclass_fields__})
            except (KeyError, ValidationError) as error:
                raise CorruptFile(f"{path}, line {number}: not a sample ({error})") from error
            rows[sample.prompt_id, sample.sample_index] = sample
    return [rows[key] for key in sorted(rows)]


def load_sample_set(folder: Path | str, prompt_ids: Collection[str]) -> SampleSet:
    """A sample set and what it lacks; a row whose file is gone or empty counts as missing.

    Raises:
        InputError: there is no `samples.jsonl`, a sample belongs to none of the prompts, or the
            pictures were not all drawn in one way.
    """
    folder = Path(folder)
    rows = read_samples(folder)
    ways = {s.settings for s in rows}
    if len(ways) > 1:
        raise InputError(
            folder,
            f"pictures of {len(ways)} different settings",
            "all by one model, drawn in one way",
            "Run the generate step again: it draws anew what is of other settings.",
        )
    wanted = set(prompt_ids)
    odd = sorted({s.prompt_id for s in rows} - wanted)
    if odd:
        raise InputError(
            folder,
            f"pictures of {len(odd)} prompts that are not in the prompt set, first {odd[0]!r}",
            f"pictures of its {len(wanted)} prompts",
            "Give the prompt set that they were generated from.",
        )
    there = tuple(s for s in rows if _is_there(folder / s.file))
    most = max((s.sample_index + 1 for s in rows), default=1)
    have = {(s.prompt_id, s.sample_index) for s in there}
    missing = sorted({(p, i) for p in wanted for i in range(most)} - have)
    return SampleSet(folder, there, tuple(missing))


def complete_prompts(sets: Sequence[SampleSet]) -> set[str]:
    """Ids of the prompts that lack nothing in any of the sets."""
    ids = {s.prompt_id for found in sets for s in found.samples}
    return ids - {prompt for found in sets for prompt, _ in found.missing}


def refuse_unpaired(sets: Sequence[SampleSet]) -> None:
    """Check that the same prompt and index has the same seed, and so the same noise, in all sets.

    Raises:
        InputError: a seed differs, or a set has more pictures a prompt than another.
    """
    seeds = [{(s.prompt_id, s.sample_index): s.seed for s in found.samples} for found in sets]
    for found, other in zip(sets[1:], seeds[1:], strict=True):
        odd = sorted(k for k in seeds[0].keys() | other.keys() if seeds[0].get(k) != other.get(k))
        if odd:
            prompt, index = odd[0]
            raise InputError(
                found.folder,
                f"{len(odd)} pictures without a partner of the same seed in {sets[0].folder}, "
                f"first {prompt!r} number {index}",
                "two sets from one prompt set and one run seed, so that their noise is paired",
                "Generate both with the same `seed`, prompts and number of pictures.",
            )


def load_sides(
    folders: Mapping[str, Path | str], prompt_ids: Collection[str], *, allow_missing: bool = False
) -> tuple[dict[str, SampleSet], dict[str, int]]:
    """Sample sets that can be compared prompt by prompt, and how many pictures each lacks.

    Args:
        folders: side -> its sample set.
        prompt_ids: all prompts.
        allow_missing: keep the prompts that are complete in every set, instead of refusing.

    Raises:
        InputError: a set is incomplete, fewer than two prompts are complete in all, or the same
            prompt and index has another seed in another set.
    """
    sets = {name: load_sample_set(folder, prompt_ids) for name, folder in folders.items()}
    for found in sets.values():
        if found.missing and not allow_missing:
            prompt, index = found.missing[0]
            raise InputError(
                found.folder,
                f"{len(found.missing)} pictures missing, first {prompt!r} number {index}",
                f"a complete set of {len(found.samples) + len(found.missing)}",
                "Run the generate step to its end, or set allow_missing to compare what is there.",
            )
    missing = {name: len(found.missing) for name, found in sets.items()}
    complete = complete_prompts(list(sets.values()))
    sets = {name: found.only(complete) for name, found in sets.items()}
    if len(complete) < 2:
        raise InputError(
            "evaluate",
            f"{len(complete)} complete prompts",
            "at least 2: every interval is over prompts",
            "Generate pictures for more prompts.",
        )
    refuse_unpaired(list(sets.values()))
    return sets, missing


def _is_there(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0
