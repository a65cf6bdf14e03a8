"""Which fields of a step name its inputs, and whether they can mean what they say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tastemaker.errors import RecipeError
from tastemaker.recipe.schema import Step

PICTURES = "pictures"
"""Kind of input that no step leaves and `store.sources` opens: a folder, `demo:openmoji`, ..."""


@dataclass(frozen=True)
class Reference:
    """One input of a step, as the recipe names it.

    Attributes:
        field: the configuration's field.
        name: key of the artefact in the stage's `inputs`: the field; `field.0`, `field.1`, ... when
            it holds a list; `field.NAME` when it holds names with a value each.
        kinds: kinds of artefact that are accepted, the first present one wins.
        value: name of an earlier step, a path, or a model.
        where: dotted place, for messages.
    """

    field: str
    name: str
    kinds: tuple[str, ...]
    value: str
    where: str

    @property
    def may_be_a_step(self) -> bool:
        """False for pictures: a folder may be called as a step is."""
        return PICTURES not in self.kinds


def references(step: Step) -> list[Reference]:
    """All inputs that a step names; a field that is None names none."""
    found = []
    for field, kinds in type(step.config).inputs.items():
        value = getattr(step.config, field)
        if value is None:
            continue
        single = not isinstance(value, list | tuple | Mapping)
        named = (
            value.items() if isinstance(value, Mapping) else enumerate([value] if single else value)
        )
        for part, one in named:
            name = field if single else f"{field}.{part}"
            where = f"recipe.{step.name}.{name}"
            found.append(Reference(field, name, tuple(kinds.split("|")), str(one), where))
    return found


def check_references(steps: Sequence[Step]) -> list[RecipeError]:
    """References to the step itself, to a later step, or to a stage that cannot leave the kind."""
    problems = []
    order = {step.name: number for number, step in enumerate(steps)}
    for number, step in enumerate(steps):
        for reference in references(step):
            at = order.get(reference.value)
            if at is None or not reference.may_be_a_step:
                continue
            outputs = steps[at].stage.outputs
            if at >= number:
                got = "the step itself" if at == number else f"the later step '{reference.value}'"
                problems.append(
                    RecipeError(
                        reference.where, got, "an earlier step", "Change the order of the steps."
                    )
                )
            elif outputs is not None and not set(outputs) & set(reference.kinds):
                problems.append(
                    RecipeError(
                        reference.where,
                        f"the step '{reference.value}', which leaves {', '.join(outputs)}",
                        f"one that leaves {' or '.join(reference.kinds)}",
                        "Name another step.",
                    )
                )
    return problems
