"""Where the work over rows is done: in this process, in a pool of processes, or on Ray."""

from typing import Literal

from pydantic import Field, model_validator

from tastemaker.records.config import Config


class Engine(Config):
    """The runner and its resources. Outcomes do not depend on it, only the time they take."""

    kind: Literal["pool", "ray"] = "pool"
    """`pool`: this process or processes of this machine; `ray`: actors of a Ray cluster."""
    workers: int = Field(default=0, ge=0)
    """0: with `pool` this process itself, with `ray` as many as the cluster has room for."""
    address: str | None = None
    """Ray cluster: none starts one on this machine, `auto` takes the running one, or
    `ray://host:10001`."""
    cpus_per_worker: float = Field(default=1, ge=0, allow_inf_nan=False)
    """CPUs that Ray reserves for a worker; with both kinds, most threads of torch in it (ours)."""
    gpus_per_worker: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Accelerators that Ray reserves for a worker; with `pool`, above 0: one of all, in turn.
    None (ours): 1 where this machine has one and a model is to run on it; 0 with `ray`."""
    row_timeout_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """A worker that needs longer than this times its rows is killed, as if it had died: for
    decoders that hang. Nothing can be killed in this process. None: never (ours)."""

    @model_validator(mode="after")
    def _address_is_for_ray(self) -> "Engine":
        if self.address is not None and self.kind != "ray":
            raise ValueError("an address needs kind: ray")
        return self

    @property
    def gpus(self) -> float:
        """`gpus_per_worker`, where None is 0."""
        return self.gpus_per_worker or 0.0

    def for_models(self) -> "Engine":
        """The same with an accelerator for each worker, if there is one and nothing is said."""
        if self.gpus_per_worker is not None or self.kind == "ray":
            return self
        import torch

        return self.model_copy(update={"gpus_per_worker": float(torch.cuda.is_available())})


IN_PROCESS = Engine()
"""No worker: everything happens in the calling process."""
