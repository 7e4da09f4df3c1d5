"""One tree of errors. Each also inherits the standard error it is, so callers may catch either.

    AssentError
    ├── UsageError(ValueError)                bad input or usage: exit status 2, nothing written
    │   ├── DataError                         a file, row or column that cannot be used
    │   │   └── DataFileNotFoundError(FileNotFoundError)
    │   ├── ConfigError                       an option or a combination of options
    │   ├── ModelError                        a model folder that cannot serve as asked
    │   │   └── TemplateError                 chat template, prompt/completion cut
    │   └── RunFolderError                    an output folder that belongs to another run, or is in use
    ├── FaultError(RuntimeError)              ran and found a fault: exit status 1
    │   ├── GateError                         a step-0 check failed
    │   └── StopRun                           a check of the metrics ended the run in good order
    └── RunError(RuntimeError)                failed while running: exit status 3, the last checkpoint stands
        ├── NonFiniteError(ArithmeticError)   NaN or Inf, before the optimiser step
        ├── OutOfMemoryError(MemoryError)     memory at the smallest micro-batch
        ├── WaitingError                      people's labels are not there yet
        └── StorageError(OSError)             disk full, file system errors

A message says what, got, expected, and what to do next: `what` is required, the rest where they help.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class AssentError(Exception):
    """Base of all errors of this package."""

    exit_status = 3

    def __init__(self, what: str, *, got: object = None, expected: object = None, fix: str | None = None) -> None:
        self.what, self.got, self.expected, self.fix = what, got, expected, fix
        lines = [what]
        lines += [f"  got:      {got}"] if got is not None else []
        lines += [f"  expected: {expected}"] if expected is not None else []
        lines += [f"  to do:    {fix}"] if fix is not None else []
        super().__init__("\n".join(lines))


class UsageError(AssentError, ValueError):
    exit_status = 2


class DataError(UsageError):
    pass


class DataFileNotFoundError(DataError, FileNotFoundError):
    pass


class ConfigError(UsageError):
    pass


class ModelError(UsageError):
    pass


class TemplateError(ModelError):
    pass


class RunFolderError(UsageError):
    pass


class FaultError(AssentError, RuntimeError):
    exit_status = 1


class GateError(FaultError):
    pass


class StopRun(FaultError):  # noqa: N818  # it ends a run in good order: the name says what it does
    """Raised by an observer of a run's log; the session then keeps checkpoint and model, and raises it again.

    finding   what was found, as findings.json has it: `rule`, `severity`, `verdict`, `evidence`, `next_action`
    """

    def __init__(self, finding: Mapping[str, Any], *, step: int | None = None, folder: str | None = None) -> None:
        self.finding, self.step, self.folder = dict(finding), step, folder
        when = "" if step is None else f" after step {step}"
        where = "" if folder is None else f", with checkpoint and model in {folder}"
        super().__init__(
            f"the run was stopped{when}{where}: {finding['verdict']}",
            got=f"rule {finding['rule']}",
            fix=f"{finding['next_action']}; the same command with --no-stop goes on from here",
        )


class RunError(AssentError, RuntimeError):
    exit_status = 3


class NonFiniteError(RunError, ArithmeticError):
    pass


class OutOfMemoryError(RunError, MemoryError):
    pass


class WaitingError(RunError):
    pass


class StorageError(RunError, OSError):
    pass
