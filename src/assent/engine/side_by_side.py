"""Works on two small models at the same time, on a CPU whose cores one of them does not keep busy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import nn

from assent.engine.runtime import Runtime
from assent.models.at_once import at_once

MOST_PARAMETERS = 2**22
"""The largest models that share the cores. If policy and critic have 1 M parameters, both take four fifths of the time
that they take one after the other; with 8.4 M they hardly gain. Memory holds the activations of both."""

Result = TypeVar("Result")


def side_by_side(
    runtime: Runtime, modules: Sequence[nn.Module], work: Sequence[Iterable[Result]]
) -> list[list[Result]]:
    """The results of each iterable of `work`. Each one reads and changes only its own one of `modules`.

    They run at the same time where that helps, otherwise in order. The choice, and the number of threads, depend only
    on the models and the machine, so a resumed run computes as the killed one did.
    """
    if not _serves(runtime, modules, torch.get_num_threads()):
        return [[*one] for one in work]
    return at_once(work)


def _serves(runtime: Runtime, modules: Sequence[nn.Module], threads: int) -> bool:
    if runtime.num_processes > 1 or runtime.device.type != "cpu" or not 1 < len(modules) <= threads:
        return False
    weights = [{id(p): p.numel() for p in module.parameters()} for module in modules]
    apart = sum(map(len, weights)) == len(set().union(*weights))
    return apart and all(sum(sizes.values()) <= MOST_PARAMETERS for sizes in weights)
