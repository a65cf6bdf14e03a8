"""A table of the reference's errors, made once for many runs on the same pairs.

With it, a step of DPO has the memory and nearly the time of SFT on both sides. It pays when the
K draws of a pair are used more than once: several epochs, or several runs with other values of
beta, learning rate or link.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from tastemaker.models.family import Family
from tastemaker.records.run import Visit
from tastemaker.store.hashing import hash_json
from tastemaker.store.reference_tables import ReferenceErrors
from tastemaker.training.order import Key
from tastemaker.training.preference import PairTask
from tastemaker.training.reference import hash_weights


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
