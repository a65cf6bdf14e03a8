"""What the loop trains: one small object per kind of model."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import nn

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
