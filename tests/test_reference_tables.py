"""Tables of the reference's errors: equal to the reference bit for bit, refused when stale."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tastemaker.errors import CorruptFile, InputError, StaleCache
from tastemaker.objectives.dpo import WinnerSFT
from tastemaker.records.run import Visit
from tastemaker.records.size import Size
from tastemaker.store.reference_tables import (
    ReferenceErrors,
    ReferenceTable,
    write_reference_table,
)
from tastemaker.training.reference_precompute import reference_errors, table_facts
from tests.preference_toys import PAIRS, made_task, nudge

SQUARE = PAIRS[:6]


def table_of(task: Any, path: Path, draws: int = 2, **changes: Any) -> dict[str, Any]:
    facts = table_facts(task, pairs="k", latents="l", precision="fp32", draws=draws)
    rows = reference_errors(task, {Size(32, 32): SQUARE}, draws, 6)
    write_reference_table(path, rows, {**facts, **changes})
    return facts


@pytest.mark.parametrize("architecture", ["sd15", "sdxl", "pixart-512"])
def test_a_table_stands_for_the_reference_bit_for_bit(tmp_path: Path, architecture: str) -> None:
    live = made_task(architecture, draws=2)
    path = tmp_path / "table.parquet"
    facts = table_of(live, path)
    # The run that uses it has no second model, and other weights as soon as it trains.
    plain = made_task(architecture, WinnerSFT(), reference="none", draws=2)
    own = table_facts(plain, pairs="k", latents="l", precision="fp32", draws=2)
    assert own == facts
    table = ReferenceTable(path, own)
    task = made_task(architecture, reference="none", table=table)
    for each in (live, task):
        nudge(each)
    for number in range(4):
        # Visits 2 and 3 have the draws of 0 and 1 again.
        visits = [Visit(pair, number) for pair in SQUARE]
        terms = [each.terms(each.padded(visits)) for each in (live, task)]
        assert torch.equal(terms[0].per_sample, terms[1].per_sample)
        assert torch.equal(terms[0].metrics["margin"], terms[1].metrics["margin"])


def test_a_stale_table_is_refused(tmp_path: Path) -> None:
    live = made_task("sd15", draws=2)
    path = tmp_path / "table.parquet"
    facts = table_of(live, path)
    other = {**facts, "model": "another", "seed": 7}
    with pytest.raises(StaleCache, match="model .*seed 0.*model another, seed 7.*again"):
        ReferenceTable(path, other)
    table = ReferenceTable(path, facts)
    assert len(table) == 6
    table.check(SQUARE)
    with pytest.raises(InputError, match="2 pairs, first p6"):
        table.check(PAIRS)
    with pytest.raises(StaleCache, match="pair p7"):
        table.of("p7", 0)
    with pytest.raises(ValueError, match="draw 2"):
        table.of("p0", 2)
    # A weight that moved by one step of training is another model.
    nudge(live, 1e-6)
    moved = made_task("sd15", WinnerSFT(), reference="none")
    nudge(moved, 1e-6)
    own = table_facts(moved, pairs="k", latents="l", precision="fp32", draws=2)
    assert {n for n in own if own[n] != facts[n]} == {"model"}


def test_a_table_of_other_timesteps_is_refused_where_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    table_of(made_task("sd15", draws=2), path)
    task = made_task("sd15", reference="none", table=ReferenceTable(path))
    task.seed = 1
    with pytest.raises(StaleCache, match="timestep"):
        task.terms([Visit("p0", 0)])


def test_what_no_table_can_hold(tmp_path: Path) -> None:
    path, row = tmp_path / "t.parquet", ReferenceErrors("a", 0, 3, 0.5, 0.25)
    with pytest.raises(ValueError, match="stays"):
        list(reference_errors(made_task("sd15", reference="ema", draws=2), {}, 2, 2))
    with pytest.raises(ValueError, match="draws"):
        list(reference_errors(made_task("sd15"), {}, 2, 2))
    with pytest.raises(ValueError, match="draws 0 to 1"):
        write_reference_table(path, [row], {"draws": 2})
    with pytest.raises(ValueError, match="twice"):
        write_reference_table(path, [row, row], {"draws": 1})
    with pytest.raises(ValueError, match="finite"):
        write_reference_table(path, [ReferenceErrors("a", 0, 3, float("nan"), 0.1)], {"draws": 1})
    write_reference_table(path, [row], {"draws": 1, "model": "m"})
    assert ReferenceTable(path, {"draws": 1, "model": "m"}).of("a", 0) == row
    first = path.read_bytes()
    write_reference_table(path, [row], {"model": "m", "draws": 1})
    assert path.read_bytes() == first
    path.write_bytes(first[:50])
    with pytest.raises(CorruptFile):
        ReferenceTable(path)
