"""Numbers for readers, as filters for the templates. None and values that are not finite become a dash."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

DASH = "–"
COSTS = {
    "cost/labels": "Labels",
    "cost/completions_sampled": "Completions sampled",
    "cost/reward_calls": "Reward calls",
    "cost/flops": "Compute",
    "cost/seconds": "Time",
    "cost/planned_seconds_low": "Planned time, at least",
    "cost/planned_seconds_high": "at most",
    "cost/peak_memory_bytes": "Peak memory",
    "cost/planned_memory_bytes": "Planned peak memory",
    "cost/models_resident": "Models in memory",
}
NOT_SUMMED = {"cost/peak_memory_bytes", "cost/planned_memory_bytes", "cost/models_resident"}
"""Their total over stages is the maximum, not the sum."""


def _known(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def percent(share: float | None, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f}%" if share is not None and _known(share) else DASH


def number(value: float | None, digits: int = 2) -> str:
    """Fixed decimals; no decimals for large numbers, two significant digits for small ones; with a real minus sign."""
    if value is None or not _known(value):
        return DASH
    size = abs(value)
    if value == 0 or size >= 1000:
        text = f"{value:,.0f}"
    elif size < 10**-digits:
        text = f"{value:.2g}"
    else:
        text = f"{value:.{digits}f}"
    return text.replace("-", "−")


ACRONYMS = {"sft", "dpo", "ppo", "kto", "a2c", "grpo", "rloo", "ipo", "rm"}


def label(name: str) -> str:
    """A policy's name for readers: `PPO` for `ppo`, `Base` for `base`; other names are unchanged."""
    if name.lower() in ACRONYMS:
        return name.upper()
    return {"base": "Base", "chosen": "Chosen"}.get(name, re.sub(r"^best-of-(\d+)$", r"Best of \1", name))


def value_or_text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: DASH}[value]
    if isinstance(value, int):
        return str(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def sentence(text: str) -> str:
    """With a capital first letter, unless the first word is a name such as `kl_coef` or `loss/policy`."""
    is_name = any(mark in text.partition(" ")[0] for mark in "_/")
    return text if is_name else text[:1].upper() + text[1:]


def interval(estimate: Mapping[str, Any] | None, digits: int = 2) -> str:
    """`0.38 to 0.44`, or `too few` without ends. An end near 0 gets more decimals, and both as many."""
    if estimate is None:
        return ""
    if estimate.get("low") is None or estimate.get("high") is None:
        return "too few"
    ends = (estimate["low"], estimate["high"])
    smallest = min((abs(end) for end in ends if end), default=1.0)
    if 10 ** -(digits + 2) <= smallest < 10**-digits and max(map(abs, ends)) < 1000:
        digits = math.ceil(-math.log10(smallest))
        return " to ".join(f"{end:.{digits}f}" if end else "0" for end in ends).replace("-", "−")
    return f"{number(ends[0], digits)} to {number(ends[1], digits)}"


def nats(value: float | None, digits: int = 2) -> str:
    """A KL. Below a thousandth of a nat it is rounding noise of the forward pass and is shown as 0."""
    return number(value if value is None or abs(value) >= 1e-3 else 0.0, digits)


def nats_interval(estimate: Mapping[str, Any] | None, digits: int = 1) -> str:
    if estimate is None or estimate.get("low") is None or estimate.get("high") is None:
        return interval(estimate)
    return f"{nats(estimate['low'], digits)} to {nats(estimate['high'], digits)}"


def kl_estimate(kl: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The estimate of a policy's KL: k1 for sampled completions, its own estimate for best-of-n."""
    return kl["k1"] or kl["best_of_n"]


def percent_interval(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return ""
    if estimate.get("low") is None or estimate.get("high") is None:
        return "too few"
    return f"{100 * estimate['low']:.0f} to {100 * estimate['high']:.0f}%"


def duration(seconds: float | None) -> str:
    if seconds is None or not _known(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def scaled(value: float | None, unit: str) -> str:
    """A value with a decimal prefix: `1.4 GB`, `320 TFLOP`."""
    if value is None or not _known(value):
        return DASH
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    power = min(int(math.log10(abs(value)) // 3), len(prefixes) - 1) if abs(value) >= 1 else 0
    return f"{value / 1000**power:.3g} {prefixes[power]}{unit}"


def cost(value: float | None, name: str) -> str:
    if "seconds" in name:
        return duration(value)
    if name == "cost/flops":
        return scaled(value, "FLOP")
    if name.endswith("memory_bytes"):
        return scaled(value, "B")
    return f"{value:,.0f}" if value is not None and _known(value) else DASH


FILTERS = {
    "nats": nats,
    "nats_interval": nats_interval,
    "percent": percent,
    "number": number,
    "label": label,
    "sentence": sentence,
    "value_or_text": value_or_text,
    "interval": interval,
    "kl_estimate": kl_estimate,
    "percent_interval": percent_interval,
    "duration": duration,
    "cost": cost,
}
