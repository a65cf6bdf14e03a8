"""What the loop trains: one small object per kind of model."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from tastemaker.objectives.protocol import Terms
from tastemaker.records.run import Visit


class Task(Protocol):
    """A model, its data and its objective, seen from the loop.

    Everything random in `terms` comes from draws keyed by the visit, so the same visits always give
    the same terms, in whatever batch, process or resumed run they are computed.
    """

    whole_batch: bool
    """True when a sample's terms depend on the others (contrastive): no micro-batches then."""

    def modules(self) -> Mapping[str, nn.Module]:
        """The modules that are trained, by part name."""
        ...

    def terms(self, visits: Sequence[Visit]) -> Terms:
        """Per-sample losses [B] of these visits, with gradient."""
        ...

    def validate(self) -> Mapping[str, float]:
        """Losses on the fixed grids, by name (`validation/mse`, `stable/mse`, ...)."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A task that changes as it trains, beside the weights: its reference follows, beta moves."""

    def prepare(self, trained: Mapping[str, Tensor]) -> None:
        """Told what the optimiser moves, by `part.name`, before a checkpoint is read."""
        ...

    def after_step(self, terms: Mapping[str, Tensor], *, moved: bool) -> None:
        """Called once after every optimiser step.

        Args:
            terms: as `loop.Step.terms`.
            moved: whether the step changed the weights.
        """
        ...

    def state(self) -> Mapping[str, Any]:
        """JSON values for a checkpoint; may read the device."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """Tensors for a checkpoint, the same in every process; not copies."""
        ...

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` and `tensors` gave."""
        ...


class Watch(Protocol):
    """Looks at every validation, and may end the run; every process comes to the same answer."""

    def look(self, figures: Mapping[str, float]) -> bool:
        """Whether all is well; a checkpoint of a step where it is not is never the best one."""
        ...

    @property
    def ended(self) -> str:
        """Why the run must end; empty while it need not."""
        ...

    def state(self) -> Mapping[str, Any]:
        """JSON values for a checkpoint."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


class Unchanging:
    """The `Stateful` of a task without any state."""

    def prepare(self, trained: Mapping[str, Tensor]) -> None:
        """Nothing to do."""

    def after_step(self, terms: Mapping[str, Tensor], *, moved: bool) -> None:
        """Nothing changes."""

    def state(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def tensors(self) -> Mapping[str, Tensor]:
        """None."""
        return {}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Nothing to do."""


class Unwatched:
    """A `Watch` that looks at nothing."""

    ended = ""

    def look(self, figures: Mapping[str, float]) -> bool:
        """All is well."""
        del figures
        return True

    def state(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to do."""
