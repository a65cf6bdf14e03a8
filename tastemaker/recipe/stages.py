"""The stages by name, loaded when they are asked for.

A stage module has `Config` (a `records.config.Config`), `VERSION: int` and `run`. It may have
`check(config, inputs)`, which returns findings, `preview(config, inputs)`, which says in lines what
would be done, `forecast(config, inputs, coming)`, which says what memory and disk that takes,
`OUTPUTS`, the kinds of artefacts it can leave, and `PARALLEL = True` when several processes can do
it together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from tastemaker.errors import RecipeError
from tastemaker.recipe.names import did_you_mean, one_of
from tastemaker.records.config import Config
from tastemaker.records.finding import Finding, Forecast
from tastemaker.records.run import Manifest

Run = Callable[..., Manifest]
"""`run(config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest`"""
Check = Callable[..., Sequence[Finding]]
"""`check(config, inputs: Mapping[str, Artefact]) -> Sequence[Finding]`.

`inputs` lacks what earlier steps have yet to make.
"""
Preview = Callable[..., Sequence[str]]
"""`preview(config, inputs: Mapping[str, Artefact]) -> Sequence[str]`; `inputs` as for check."""
Foresee = Callable[..., Forecast]
"""`forecast(config, inputs: Mapping[str, Artefact], coming: Mapping[str, Config]) -> Forecast`.

`coming` has the configurations of the earlier steps that have yet to make an input, by the input's
name. A forecast may take seconds, so a run does not ask for it; only `tastemaker check` does.
"""


@dataclass(frozen=True)
class Stage:
    """One stage, ready to run.

    Attributes:
        name: its name in recipes.
        config: the class of its configuration.
        version: changes when the same configuration gives other outputs.
        run: the work.
        check: what can be told before the work; None when there is nothing.
        outputs: kinds of artefacts it can leave; None when it does not say.
        preview: what would be done, in lines; None when there is nothing to tell.
        forecast: what memory and disk it takes; None when there is nothing to tell.
        parallel: whether all processes of a launch run it together; the first alone gets a manifest
            from it.
    """

    name: str
    config: type[Config]
    version: int
    run: Run
    check: Check | None = None
    outputs: tuple[str, ...] | None = None
    preview: Preview | None = None
    forecast: Foresee | None = None
    parallel: bool = False


StageTable = Mapping[str, "str | Stage"]
"""Name -> module, or a stage itself."""

STAGES: dict[str, str] = {
    name: f"tastemaker.stages.{name}"
    for name in (
        "collect",
        "curate",
        "simulate_rating",
        "quality_model",
        "cache",
        "import_latents",
        "prompts",
        "fit",
        "fit_autoencoder",
        "fit_tokenizer",
        "fit_image_text",
        "assemble",
        "generate",
        "arrange",
        "evaluate",
        "study",
        "pairs",
        "cache_pairs",
        "fit_pairs",
        "export",
    )
}


def load_stage(name: str, table: StageTable, where: str = "stage") -> Stage:
    """Find a stage in the table and import it.

    Raises:
        RecipeError: there is no stage of this name.
    """
    entry = table.get(name)
    if entry is None:
        raise RecipeError(
            where,
            f"the stage '{name}'",
            one_of(sorted(table)),
            did_you_mean(name, table, "See `tastemaker --help` for the stages."),
        )
    if isinstance(entry, Stage):
        return entry
    module = import_module(entry)
    return Stage(
        name,
        module.Config,
        module.VERSION,
        module.run,
        getattr(module, "check", None),
        getattr(module, "OUTPUTS", None),
        getattr(module, "preview", None),
        getattr(module, "forecast", None),
        getattr(module, "PARALLEL", False),
    )
