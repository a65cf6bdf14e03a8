"""A table of the reference's errors, made once for many runs on the same pairs.

With it, a step of DPO has the memory and nearly the time of SFT on both sides. It pays when the
K draws of a pair are used more than once: several epochs, or several runs with other values of
beta, learning rate or link.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tastemaker.models.family import Family
from tastemaker.records.run import Visit
from tastemaker.store.hashing import hash_json
from tastemaker.store.reference_tables import (
    ReferenceErrors,
    ReferenceTable,
    table_key,
    write_reference_table,
)
from tastemaker.training.group import Alone, Group
from tastemaker.training.order import Key
from tastemaker.training.preference import PairTask
from tastemaker.training.reference import hash_weights

CHUNK_PAIRS = 256
"""Pairs of a part of a table; a killed run loses at most one part of each process (ours)."""


def made_table(
    folder: Path,
    task: PairTask,
    ids_by_bucket: Mapping[Key, Sequence[str]],
    made_with: Mapping[str, str | int | float | bool],
    batch: int,
    *,
    passes: Callable[[], AbstractContextManager[object]] = nullcontext,
    group: Group | None = None,
    on_pairs: Callable[[int], None] = lambda count: None,
) -> Path:
    """The table of these errors in `folder`, by its key; made where it is not there yet.

    It is made in parts, which a run that was stopped goes on from; several processes share them.

    Args:
        folder: of tables.
        task: as for `reference_errors`.
        ids_by_bucket: pair ids by the size of their latents.
        made_with: by `table_facts`.
        batch: pairs in one pass.
        passes: around every pass, as in training.
        group: the processes that make it together; each calls this, the first writes the table.
        on_pairs: told how many draws of pairs are done, those of an earlier attempt included.

    Raises:
        ValueError: as `reference_errors`.
        StorageError: the disk is full.
    """
    group, draws = group or Alone(), int(made_with["draws"])
    table = folder / f"{table_key(made_with)}.parquet"
    parts = table.with_suffix(".parts")
    # What the first sees counts: it may write the table while another looks.
    if group.texts("there" if table.is_file() else "")[0]:
        on_pairs(draws * sum(map(len, ids_by_bucket.values())))
        return table
    chunks = [
        (key, ids[start : start + CHUNK_PAIRS])
        for key, ids in sorted(ids_by_bucket.items(), key=lambda one: str(one[0]))
        for start in range(0, len(ids), CHUNK_PAIRS)
    ]
    files = [parts / f"{number:05d}.parquet" for number in range(len(chunks))]
    for number, (key, ids) in enumerate(chunks):
        if number % group.world != group.rank:
            continue
        if files[number].is_file():
            on_pairs(draws * len(ids))
            continue
        with passes():
            rows = list(reference_errors(task, {key: ids}, draws, batch, on_pairs))
        write_reference_table(files[number], rows, made_with)
    group.barrier()
    if group.first:
        found: list[ReferenceErrors] = []
        for file, (_, ids) in zip(files, chunks, strict=True):
            part = ReferenceTable(file, made_with)
            found += [part.of(pair, draw) for pair in ids for draw in range(draws)]
        write_reference_table(table, found, made_with)
        shutil.rmtree(parts, ignore_errors=True)
    group.barrier()
    return table


def reference_errors(
    task: PairTask,
    ids_by_bucket: Mapping[Key, Sequence[str]],
    draws: int,
    batch: int,
    on_pairs: Callable[[int], None] = lambda count: None,
) -> Iterator[ReferenceErrors]:
    """Every draw of every pair, as `write_reference_table` takes them.

    Args:
        task: with a reference, its draws limited to the same number.
        ids_by_bucket: pair ids by the size of their latents.
        draws: K.
        batch: pairs in one pass.
        on_pairs: told the number of pairs of every pass.

    Raises:
        ValueError: the reference moves, or the task draws anew for ever, so that no table could
            hold its errors.
    """
    if task.reference is None or task.reference.kind == "ema":
        raise ValueError("a table holds the errors of a reference that stays")
    if task.draws != draws:
        raise ValueError(f"the task has {task.draws} draws of a pair, the table {draws}")
    for ids in ids_by_bucket.values():
        for draw in range(draws):
            for start in range(0, len(ids), batch):
                some = ids[start : start + batch]
                visits = [Visit(pair_id, draw) for pair_id in some]
                timesteps = task.drawn_timesteps(visits).tolist()
                winners, losers = task.reference_errors(visits).float().tolist()
                for row in zip(some, timesteps, winners, losers, strict=True):
                    yield ReferenceErrors(row[0], draw, *row[1:])
                on_pairs(len(some))


def table_facts(
    task: PairTask, *, pairs: str, latents: str, precision: str, draws: int
) -> dict[str, str | int | float | bool]:
    """All that the errors depend on; the run that uses a table must have the same.

    Args:
        task: the one that made the table, or the one that uses it, before its first step.
        pairs: key of the pair set.
        latents: key of the latents.
        precision: number format of the passes.
        draws: K.
    """
    family = task.family
    network = family.parts[family.denoiser]
    own = ((n, p) for n, p in network.named_parameters() if ".lora_" not in n)
    model = hash_weights(own) if task.reference is None else task.reference.fingerprint()
    prompts = task.prompter.prompts
    return {
        "model": model,
        "text": _text_hash(family),
        "prediction": task.schedule.prediction_type,
        "schedule": hash_json(task.schedule.alpha_bar.tolist()),
        "timesteps": hash_json(list(task.timesteps.among)),
        "first timesteps": hash_json(_first_timesteps(task)),
        "prompts": hash_json(dict(prompts)),
        "empty": task.prompter.empty,
        "windows": family.windows(task.prompter.longest()),
        "noise_offset": task.objective.noise_offset,
        "seed": task.seed,
        "pairs": pairs,
        "latents": latents,
        "precision": precision,
        "draws": draws,
    }


def _first_timesteps(task: PairTask) -> list[int]:
    """Of some pairs: they tell one distribution from another, which a name would not do as well."""
    visits = [Visit(pair_id, 0) for pair_id in sorted(task.prompter.prompts)[:256]]
    return task.drawn_timesteps(visits).tolist()


def _text_hash(family: Family) -> str:
    encoders = {n: part for n, part in family.parts.items() if n.startswith("text_encoder")}
    return hash_weights(
        (f"{name}.{n}", p) for name, part in encoders.items() for n, p in part.named_parameters()
    )
