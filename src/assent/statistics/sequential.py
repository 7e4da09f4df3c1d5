"""Looking every day without finding something by chance: how much of the allowed error each day may spend."""

from __future__ import annotations

import math

from assent.errors import ConfigError


def spent_on(day: int) -> float:
    """Share of the allowed error that day 1, 2, 3 … may spend: 1/log₂(d + 1) − 1/log₂(d + 2).

    The sum over all days is 1, however long one looks: it telescopes. By the union bound the probability of any false
    alarm, ever, is at most the allowed error, whatever the days share: the same baseline, overlapping windows, the same
    users. (Lan and DeMets, Biometrika 70 (1983), call such a function alpha spending.) Products of e-values would find
    a small lasting shift sooner, but they need days that are independent given the past, and days that are compared
    with one finite baseline are not.
    """
    if day < 1:
        raise ConfigError("days are counted from 1", got=day)
    return 1 / math.log2(day + 1) - 1 / math.log2(day + 2)
