"""A pool of actors on a Ray cluster: the one of RAY_ADDRESS, or one on this machine (extra `ray`)."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from typing import Any

from assent.errors import ConfigError
from assent.integrations.executor import Failed, Open, Outcome, guarded, reason_of


def check_ray() -> None:
    """Raises ConfigError if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("engine ray needs Ray, which is not installed", fix="pip install 'assent[ray]'")


class RayPool:
    """`size` actors of one CPU each, and one GPU each if `gpus`. See `Pool`.

    Raises ConfigError if the cluster has fewer CPUs or GPUs: the actors would wait for ever.
    """

    def __init__(self, opened: Open, *, size: int, gpus: bool = False) -> None:
        import ray

        self.size, self._open, self._ray = size, opened, ray
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            ray.init(
                num_cpus=None if os.environ.get("RAY_ADDRESS") else max(size, os.cpu_count() or 1),
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=True,
                configure_logging=False,
            )
        needed = {"CPU": size, "GPU": size if gpus else 0}
        there = ray.cluster_resources()
        for name, number in needed.items():
            if number > there.get(name, 0):
                self.close()
                raise ConfigError(
                    f"the Ray cluster has too few {name}s for the workers",
                    got=f"{there.get(name, 0):g}",
                    expected=f"{number}, one for each worker",
                    fix="lower --workers, or add nodes",
                )
        # An actor finds the modules that this process finds: the user's own reward, in the folder of the command.
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        self._actor = ray.remote(
            num_cpus=1,
            num_gpus=1 if gpus else 0,
            max_restarts=0,
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
        )(_Worker)
        self._actors: dict[int, Any] = {}
        self._going: dict[Any, int] = {}

    def submit(self, worker: int, rows: Any) -> None:
        if worker not in self._actors:
            self._actors[worker] = self._actor.remote(self._open, worker, os.getcwd())
        self._going[self._actors[worker].do.remote(rows)] = worker

    def wait(self) -> tuple[int, Outcome]:
        [ended], _ = self._ray.wait(list(self._going), num_returns=1)
        worker = self._going.pop(ended)
        try:
            return worker, self._ray.get(ended)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.OutOfMemoryError) as error:
            del self._actors[worker]
            return worker, Failed(f"the worker was lost: {str(error).splitlines()[0]}", died=True)

    def close(self) -> None:
        for actor in getattr(self, "_actors", {}).values():
            self._ray.kill(actor)
        if self._is_ours:
            self._ray.shutdown()


class _Worker:
    """An actor. It opens its work when it is first asked, so that an error there is an answer."""

    def __init__(self, opened: Open, worker: int, folder: str) -> None:
        self._open, self._number, self._work = opened, worker, None
        os.chdir(folder)  # names of models and of functions' modules are relative to it

    def do(self, rows: Any) -> Outcome:
        if self._work is None:
            try:
                self._work = self._open(self._number)  # type: ignore[assignment]
            except Exception as error:  # whatever it is, the pool says it
                return Failed(reason_of(error), opening=True)
        assert self._work is not None
        return guarded(self._work, rows)
