"""Workers that are Ray actors, on this machine or a cluster. Ray Core only: no Ray Data.

Ray never restarts or retries anything here; that is the scheduler's part, so that a row which kills
its worker is treated alike everywhere. On a cluster every node needs the same version of Tastemaker
(installed, or by Ray's own `working_dir`) and sees the pictures under the same paths.
"""

import contextlib
import logging
import math
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tastemaker
from tastemaker.engine.answers import check_opened
from tastemaker.engine.config import Engine
from tastemaker.engine.worker import Worker, WorkerDied
from tastemaker.errors import InputError, MissingExtra, TastemakerError

_KNOCK_S = 10.0
_MOST_CHARACTERS = 500


class ActorWorker:
    """A `Worker` in an actor.

    Args:
        new_actor: makes the actor.
        opener: the pickled opener.
        device: where it is to work.
        cpus: most threads of torch.
    """

    def __init__(
        self, new_actor: Callable[[], Any], opener: bytes, device: str, cpus: float
    ) -> None:
        self._new_actor, self._given = new_actor, (opener, device, cpus)
        self._lock = threading.Lock()
        self._doomed = False
        self._actor: Any = None

    def start(self) -> None:
        """See `Worker`. On a busy cluster this waits until there is room."""
        with self._lock:
            if self._doomed:
                raise WorkerDied("stopped")
            self._actor = self._new_actor()
        path = [folder for folder in sys.path if folder]
        check_opened(
            self._get(self._actor.open.remote(path, tastemaker.__version__, *self._given), None)
        )

    def ask(self, request: bytes, timeout_s: float | None) -> bytes:
        """See `Worker`."""
        return self._get(self._actor.answer.remote(request), timeout_s)

    def stop(self) -> None:
        """See `Worker`."""
        self.kill()

    def kill(self) -> None:
        """See `Worker`."""
        import ray

        with self._lock:
            self._doomed = True
            if self._actor is not None:
                # Not even the loss of the whole cluster is news for one who wants to end it.
                with contextlib.suppress(Exception):
                    ray.kill(self._actor)

    def _get(self, reference: Any, timeout_s: float | None) -> bytes:
        import ray
        from ray import exceptions

        try:
            return ray.get(reference, timeout=timeout_s)
        except exceptions.GetTimeoutError:
            self.kill()
            raise WorkerDied(f"killed after {timeout_s:g} s", overdue=True) from None
        except exceptions.RayTaskError as error:
            # The function's own errors come as answers, so this is of the way there.
            if isinstance(error.cause, ImportError):
                raise _not_installed(error.cause) from error
            raise WorkerDied(_brief(error)) from error
        except (
            exceptions.RayActorError,
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.OutOfMemoryError,
            exceptions.ObjectLostError,
        ) as error:
            raise WorkerDied(_brief(error)) from error
        except (exceptions.RayError, ConnectionError) as error:
            raise TastemakerError(f"Ray itself has failed: {_brief(error)}") from error


@contextlib.contextmanager
def ray_workers(engine: Engine, opener: bytes) -> Iterator[tuple[Callable[[int], Worker], int]]:
    """What makes a worker, and how many there are to be; Ray is started and ended when it must be.

    Raises:
        MissingExtra: Ray is not installed.
        InputError: no cluster at the address, or one too small for a worker.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtra(
            "engine", "no package ray", "Ray", 'Run pip install "tastemaker[ray]".'
        ) from error
    ours = not ray.is_initialized()
    if ours:
        _connect(engine)
    try:
        count = _count(engine, ray.cluster_resources())
        kind = _actor_class().options(
            num_cpus=engine.cpus_per_worker,
            num_gpus=engine.gpus,
            max_restarts=0,
            max_task_retries=0,
        )
        # Ray shows an actor no accelerators but its own.
        device = "cuda:0" if engine.gpus > 0 else "cpu"
        yield lambda _: ActorWorker(kind.remote, opener, device, engine.cpus_per_worker), count
    finally:
        if ours:
            ray.shutdown()


def _connect(engine: Engine) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if engine.address is None:
        with contextlib.suppress(ImportError, AttributeError):
            # Ray reports its use to its makers unless told not to.
            from ray._common.usage.usage_lib import set_usage_stats_enabled_via_env_var

            set_usage_stats_enabled_via_env_var(False)
        # On the own machine workers may share CPUs, as those of a pool do.
        cpus = math.ceil(engine.workers * engine.cpus_per_worker) or None
        ray.init(include_dashboard=False, num_cpus=cpus, **quiet)
        return
    try:
        _knock(engine.address)
        ray.init(address=engine.address, **quiet)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            "engine: address", f"{engine.address} ({error})", "a running Ray cluster",
            "Start one (ray start --head), correct the address, or leave it out.",
        ) from error  # fmt: skip


def _knock(address: str) -> None:
    """Ray itself tries a wrong address for minutes, and cannot be interrupted meanwhile."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _count(engine: Engine, cluster: Mapping[str, float]) -> int:
    needs = {"CPU": engine.cpus_per_worker, "GPU": engine.gpus}
    rooms = [int(cluster.get(name, 0) / need + 1e-6) for name, need in needs.items() if need > 0]
    room = min(rooms, default=int(cluster.get("CPU", 1)))
    # A cluster that grows may have no room yet; on one machine waiting for room is in vain.
    if room < 1 and (engine.workers == 0 or engine.address is None):
        has = {name: cluster.get(name, 0) for name in needs}
        raise InputError(
            "engine", f"a cluster with {has}", f"room for a worker, {needs}",
            "Lower cpus_per_worker or gpus_per_worker, or name a larger cluster.",
        )  # fmt: skip
    return engine.workers or room


def _brief(error: Exception) -> str:
    """What happened, without ids and advice."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith("\t")]
    return " ".join(lines).split(" Some common causes")[0][:_MOST_CHARACTERS]


def _not_installed(error: ImportError) -> InputError:
    return InputError(
        "engine: a node of the Ray cluster", error, f"Tastemaker {tastemaker.__version__}",
        "Install it on every node, or submit the work with Ray's working_dir.",
    )  # fmt: skip


def _actor_class() -> Any:
    import ray

    # Within a function, so that Ray sends the class itself: a node without Tastemaker then says so.
    class RowWorker:
        def __init__(self) -> None:
            self._work: Any = None

        def open(
            self, path: list[str], version: str, opener: bytes, device: str, cpus: float
        ) -> bytes:
            import sys

            # Last, for what is nowhere else: modules beside the driver's script.
            sys.path += [folder for folder in path if folder not in sys.path]
            import tastemaker
            from tastemaker.engine.answers import open_work

            if tastemaker.__version__ != version:
                raise ImportError(f"Tastemaker {tastemaker.__version__}")
            self._work, reply = open_work(opener, device, cpus)
            return reply

        def answer(self, request: bytes) -> bytes:
            from tastemaker.engine.answers import answer

            return answer(self._work, request)

    return ray.remote(RowWorker)
