"""Charts as inline SVG: text stays text in the page's font, and colours are the page's CSS variables.

So one chart serves light mode, dark mode and paper, and takes a few kilobytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from assent.reporting.series import Band, downsample, moving_mean
from assent.runs.reading import Series
from assent.runs.text_table import cut

# Colours that no chart uses otherwise; they are replaced by CSS variables after drawing.
VARIABLES = {
    "#010101": "var(--muted)",
    "#010102": "var(--line)",
    "#010103": "var(--series-1)",
    "#010104": "var(--series-2)",
    "#010105": "var(--series-3)",
    "#010107": "var(--series-4)",
    "#010108": "var(--series-5)",
    "#010109": "var(--series-6)",
    "#010106": "var(--ink)",
}
MUTED, LINE, *SERIES, INK = VARIABLES
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (8, 2)), (0, (2, 1)))
"""One for each colour, so that lines differ without colours too. The legend in style.css has the same order."""
LONGEST_NAME = 20
"""Most characters of a policy's name in a chart; the table has the whole name."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "assent",
    "font.size": 8.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 2.5,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """A policy's mean score at its distance from the reference. Ends are None if there is no interval."""

    name: str
    kl: float
    kl_ends: tuple[float, float] | None
    score: float
    score_ends: tuple[float, float] | None


def line_chart(
    lines: Mapping[str, Series],
    *,
    identity: str,
    description: str,
    bands: Mapping[str, Band] | None = None,
    colours: Sequence[int] | None = None,
    shaded: tuple[float, float] | None = None,
) -> str:
    """Curves over steps. Long ones have a moving mean; `bands` are the intervals of some of them.

    `identity` makes ids on the page unique; `description` is for screen readers; `colours` are indices of the page's
    colours, by default 0, 1, 2 …; `shaded` are the first and the last of the steps to look at.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.6, 1.75))
        axes = figure.add_axes((0.125, 0.15, 0.855, 0.8))
        if shaded is not None:
            axes.axvspan(*shaded, color=LINE, alpha=0.6, linewidth=0)
        for place, (name, line) in zip(colours or range(len(SERIES)), lines.items(), strict=False):
            colour, dashes = SERIES[place], DASHES[place]
            if bands is not None and name in bands:
                low, high = bands[name]
                axes.fill_between(low.steps, low.values, high.values, color=colour, alpha=0.15, linewidth=0)
            smooth = moving_mean(line)
            if smooth is None:
                axes.plot(line.steps, line.values, color=colour, linestyle=dashes)
                continue
            logged, smooth = downsample(line), downsample(smooth)
            axes.plot(logged.steps, logged.values, color=colour, linewidth=0.8, alpha=0.28)
            axes.plot(smooth.steps, smooth.values, color=colour, linestyle=dashes)
        _ticks(axes)
        axes.margins(x=0.01, y=0.08)
        return _svg(figure, identity=identity, description=description)


def frontier_chart(points: Sequence[FrontierPoint], *, identity: str, description: str) -> str:
    """Mean score against KL: a point for each policy, with its intervals and its name."""
    with mpl.rc_context({**_STYLE, "axes.spines.left": True}):
        figure = Figure(figsize=(4.7, 2.75))
        axes = figure.add_axes((0.1, 0.16, 0.88, 0.82))
        for point in points:
            if point.score_ends is not None:
                axes.plot([point.kl, point.kl], point.score_ends, color=SERIES[0], linewidth=1.1, alpha=0.55)
            if point.kl_ends is not None:
                axes.plot(point.kl_ends, [point.score, point.score], color=SERIES[0], linewidth=1.1, alpha=0.55)
            axes.plot([point.kl], [point.score], "o", color=SERIES[0], markersize=5.5)
        axes.set_xlabel("KL to the reference, nats per completion; √ scale")
        _ticks(axes)
        axes.margins(y=0.16)
        farthest = max(point.kl if point.kl_ends is None else point.kl_ends[1] for point in points)
        axes.set_xscale("function", functions=(_signed_root, _signed_square))
        axes.set_xlim(-0.0015 * farthest, max(1.25 * farthest, 1e-3))
        axes.xaxis.set_major_locator(FixedLocator([0.0, *(t for t in ROUND if farthest / 40 <= t <= 1.25 * farthest)]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _name_points(axes, points)
        return _svg(figure, identity=identity, description=description)


ROUND = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]
"""KL values that can be labelled on the axis."""


def _signed_root(kl: Any) -> Any:
    return np.sign(kl) * np.sqrt(np.abs(kl))


def _signed_square(root: Any) -> Any:
    return np.sign(root) * np.square(root)


def _name_points(axes: Axes, points: Sequence[FrontierPoint]) -> None:
    """Puts each point's name where it covers the fewest other points and names."""
    centres = axes.transData.transform([(point.kl, point.score) for point in points]) * 72 / axes.figure.dpi
    boxes: list[Sequence[float]] = [(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    (left, low), (right, high) = axes.transAxes.transform([(0, 0), (1, 1)]) * 72 / axes.figure.dpi
    boxes += [
        (left - 500, low, left, high),
        (right, low, right + 500, high),
    ]
    for point, (x, y) in zip(points, centres, strict=True):
        name = cut(point.name, LONGEST_NAME)
        width = 5.2 * len(name)
        places = [(6, 4, "left"), (6, -12, "left"), (-6, 4, "right"), (-6, -12, "right")]

        def box(place: tuple[int, int, str], x: float = x, y: float = y, width: float = width) -> tuple[float, ...]:
            left = x + place[0] - (width if place[2] == "right" else 0)
            return left, y + place[1] - 2, left + width, y + place[1] + 9

        best = min(places, key=lambda place: sum(_overlap(box(place), other) for other in boxes))
        boxes.append(box(best))
        axes.annotate(
            name,
            (point.kl, point.score),
            xytext=best[:2],
            textcoords="offset points",
            ha=best[2],
            color=INK,
            fontsize=9,
        )


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Area shared by two boxes (left, bottom, right, top)."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    low, high = axes.get_ylim()
    if max(abs(low), abs(high)) < 1e-2 or max(abs(low), abs(high)) >= 1e5:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}".replace("-", "−"))


def _rounded(attribute: re.Match[str]) -> str:
    """Rounds coordinates to a hundredth of a point."""
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", attribute[0])


def _svg(figure: Figure, *, identity: str, description: str) -> str:
    buffer = io.StringIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{identity}-", drawing)
    drawing = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", drawing, flags=re.DOTALL
    )  # it would style the page
    drawing = re.sub(r"font-family: [^;\"]+;\s*", "", drawing)  # the page sets the font
    drawing = re.sub(r'\b(?:d|x|y|transform|width|height)="[^"]*"', _rounded, drawing)
    drawing = re.sub(r"\s*\n\s*", " ", drawing)
    for stand_in, variable in VARIABLES.items():
        drawing = drawing.replace(stand_in, variable)
    drawing = re.sub(r'<svg ([^>]*?)width="[^"]+"', r"<svg \1", drawing, count=1)
    drawing = re.sub(r'(<svg [^>]*?)height="[^"]+"', r"\1", drawing, count=1)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return drawing.replace("<svg ", f'<svg class="chart" role="img" aria-label="{label}" ', 1)


def over_optimisation_chart(document: Mapping[str, Any], *, identity: str, description: str) -> str:
    """The chart of frontier.json: gains in gold (above) and in each curve's proxy (below) over the reference, by √KL.

    Dots are measurements, the line is the method's law if it was fitted, and a ring marks the highest measured gold.
    Colours and dashes come from `curve_styles`.
    """
    proxies = {proxy["name"]: proxy["at_reference"] for proxy in document["proxies"]}
    styles = curve_styles(document["methods"])
    with mpl.rc_context({**_STYLE, "axes.spines.left": True}):
        rows = 1 + any(curve["proxy"] for curve in document["methods"])
        entries = len(document["methods"])
        figure = Figure(figsize=(4.7, 2.3 * rows + 0.16 * (entries + 1) // 2 + 0.35), layout="constrained")
        panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
        for curve in document["methods"]:
            colour, dash = styles[curve["name"]]
            d = [point["d"] for point in curve["points"]]
            gain = [point["gain"]["value"] for point in curve["points"]]
            panels[0].plot(d, gain, "o", color=colour, markersize=2.4)
            panels[0].plot(*_law_line(curve), color=colour, linestyle=dash, label=curve["name"])
            peak = curve["highest"]
            panels[0].plot([peak["sqrt_kl"]], [peak["gain"]], "o", color=colour, markersize=7, markerfacecolor="none")
            if curve["proxy"]:
                start = proxies[curve["proxy"]]
                rise = [point["proxy"]["value"] - start for point in curve["points"]]
                order = sorted(range(len(d)), key=d.__getitem__)
                panels[1].plot([d[i] for i in order], [rise[i] for i in order], color=colour, linestyle=dash)
        for axes, title in zip(panels, ("gain in gold over the reference", "gain in the proxy"), strict=False):
            axes.set_ylabel(title)
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
            axes.axhline(0.0, color=LINE, linewidth=0.8)
        panels[-1].set_xlabel("√KL to the reference (KL in nats per completion)")
        panels[-1].set_xlim(left=0.0)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK)
        return _svg(figure, identity=identity, description=description)


def curve_styles(curves: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, Any]]:
    """Colour and dash for each curve. The colour stands for the number of pairs, or for the proxy if that is unknown;
    the dash stands for the method. A curve that would look like an earlier one gets the next unused style."""
    families = list(dict.fromkeys(curve["pairs"] or curve["proxy"] for curve in curves))
    methods = list(dict.fromkeys(curve["method"] for curve in curves))
    colours, dashes = (*SERIES, INK, MUTED), ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
    looks = [(colour, dash) for dash in dashes for colour in colours]
    found: dict[str, tuple[str, Any]] = {}
    for curve in curves:
        place = methods.index(curve["method"]) * len(colours) + families.index(curve["pairs"] or curve["proxy"])
        following = (looks[(place + step) % len(looks)] for step in range(len(looks)))
        found[curve["name"]] = next((look for look in following if look not in found.values()), looks[0])
    return found


def _law_line(curve: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """The method's law over the measured range; if it was not fitted, the points in order."""
    points = sorted((point["d"], point["gain"]["value"]) for point in curve["points"])
    if not curve["fits"]:
        return [d for d, _ in points], [gain for _, gain in points]
    best_of_n = curve["method"] == "best-of-n"
    law = next(fit for fit in curve["fits"] if fit["law"] == ("best_of_n" if best_of_n else "rl"))
    along = [points[-1][0] * i / 60 for i in range(1, 61)]
    slope = [d if best_of_n else math.log(d) for d in along]
    return along, [d * (law["alpha"] - law["beta"] * s) for d, s in zip(along, slope, strict=True)]
