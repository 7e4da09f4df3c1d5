"""Pictures as inline SVG: text stays text in the page's own font, colours are the page's CSS variables.

So one picture serves light, dark and paper, and costs a few kilobytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from assent.runs.reading import Series

# Stand-ins that no picture uses otherwise, replaced by CSS variables after drawing.
VARIABLES = {
    "#010101": "var(--muted)",
    "#010102": "var(--line)",
    "#010103": "var(--series-1)",
    "#010104": "var(--series-2)",
    "#010105": "var(--series-3)",
    "#010106": "var(--ink)",
}
MUTED, LINE, *SERIES, INK = VARIABLES
_STYLE = {
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
    """A policy's mean score at its distance from the reference; ends are None where there is no interval."""

    name: str
    kl: float
    kl_ends: tuple[float, float] | None
    score: float
    score_ends: tuple[float, float] | None
    bound: bool = False
    """The distance is a bound from above, not an estimate."""


def line_chart(lines: Mapping[str, Series], *, identity: str, description: str) -> str:
    """Curves over steps. `identity` makes ids in the page unique; `description` is what a screen reader says."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.6, 1.75))
        axes = figure.add_axes((0.125, 0.15, 0.855, 0.8))
        for colour, dashes, line in zip(SERIES, ("-", (0, (4, 2)), (0, (1, 1.5))), lines.values(), strict=False):
            axes.plot(line.steps, line.values, color=colour, linestyle=dashes)
        _ticks(axes)
        axes.margins(x=0.01, y=0.08)
        return _svg(figure, identity=identity, description=description)


def frontier_chart(points: Sequence[FrontierPoint], *, identity: str, description: str) -> str:
    """Mean score against KL, each policy with its intervals and its name."""
    with mpl.rc_context({**_STYLE, "axes.spines.left": True}):
        figure = Figure(figsize=(5.6, 2.9))
        axes = figure.add_axes((0.09, 0.15, 0.89, 0.82))
        for point in points:
            if point.score_ends is not None:
                axes.plot([point.kl, point.kl], point.score_ends, color=SERIES[0], linewidth=1.1, alpha=0.55)
            if point.kl_ends is not None:
                axes.plot(point.kl_ends, [point.score, point.score], color=SERIES[0], linewidth=1.1, alpha=0.55)
            face = "none" if point.bound else SERIES[0]
            axes.plot([point.kl], [point.score], "o", color=SERIES[0], markerfacecolor=face, markersize=5.5)
            axes.annotate(
                point.name, (point.kl, point.score), xytext=(6, 5), textcoords="offset points", color=INK, fontsize=9
            )
        axes.set_xlabel("KL to the reference, nats per completion")
        _ticks(axes)
        axes.margins(x=0.14, y=0.16)
        axes.set_xlim(left=min(0.0, *(point.kl for point in points)) - 0.02 * max(point.kl for point in points))
        return _svg(figure, identity=identity, description=description)


def _ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    low, high = axes.get_ylim()
    if max(abs(low), abs(high)) < 1e-2 or max(abs(low), abs(high)) >= 1e5:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")


def _svg(figure: Figure, *, identity: str, description: str) -> str:
    buffer = io.StringIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{identity}-", drawing)
    drawing = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", drawing, flags=re.DOTALL)  # it would style the page
    drawing = re.sub(r"font-family: [^;\"]+;\s*", "", drawing)  # the page's own
    drawing = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", drawing)
    drawing = re.sub(r"\s*\n\s*", " ", drawing)
    for stand_in, variable in VARIABLES.items():
        drawing = drawing.replace(stand_in, variable)
    drawing = re.sub(r'<svg ([^>]*?)width="[^"]+"', r"<svg \1", drawing, count=1)
    drawing = re.sub(r'(<svg [^>]*?)height="[^"]+"', r"\1", drawing, count=1)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return drawing.replace("<svg ", f'<svg class="chart" role="img" aria-label="{label}" ', 1)
