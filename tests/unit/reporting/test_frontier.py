"""The picture and the table of frontier.json: curves that can be told apart, and what stands where nothing is known."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from assent.reporting.charts import curve_styles
from assent.reporting.frontier import frontier_lines, frontier_picture


def estimate(value: float, reach: float | None = 0.1) -> dict[str, Any]:
    ends = (None, None) if reach is None else (value - reach, value + reach)
    return {"value": value, "low": ends[0], "high": ends[1]}


def curve(name: str, method: str, *, proxy: str | None, pairs: int | None, found: bool = True) -> dict[str, Any]:
    points = [
        {"label": f"step {c}", "d": float(c), "gain": estimate(0.1 * c), "gold": estimate(0.3 + 0.1 * c)}
        | {"proxy": None if proxy is None else estimate(2.0 + c)}
        for c in (1, 2, 3)
    ]
    highest = {"label": "step 2", "sqrt_kl": 2.0, "low": 1.0, "high": 3.0, "gold": 0.5, "gain": 0.2}
    fit = {"alpha": 0.2, "beta": 0.05, "r2": None, "peak_sqrt_kl": None, "peak_ends": None}
    return {
        "name": name, "method": method, "proxy": proxy, "pairs": pairs, "points": points,
        "highest": highest | {"drop": estimate(0.15 if found else 0.0, 0.1 if found else None)},
        "peak": highest if found else None, "fits": [fit | {"law": law} for law in ("best_of_n", "rl")],
        "beyond_peak": {"num_below": 3, "num_beyond": 2, "rmse": {"best_of_n": 0.012, "rl": 0.3}} if found else None,
    }  # fmt: skip


def document(*curves: dict[str, Any]) -> dict[str, Any]:
    return {
        "gold": "a_module_with_a_long_name.of_its_own:gold", "gold_at_reference": 0.3, "num_prompts": 5,
        "confidence": 0.95, "proxies": [{"name": "few", "at_reference": 2.0}], "methods": list(curves),
        "at_equal_kl": [
            {"best_of_n": "best-of-n few", "curve": "ppo", "more_gold_at_equal_kl": estimate(0.05, 0.02)},
            {"best_of_n": "best-of-n few", "curve": "far", "more_gold_at_equal_kl": None},
        ],
    }  # fmt: skip


def test_curves_can_be_told_apart_and_families_share_a_colour() -> None:
    curves = [curve(f"{method} {pairs}", method, proxy=None, pairs=pairs) for method in "abc" for pairs in (100, 2000)]
    styles = curve_styles(curves)
    assert styles["a 100"][0] == styles["b 100"][0] == styles["c 100"][0] != styles["a 2000"][0]
    assert styles["a 100"][1] == styles["a 2000"][1] != styles["b 100"][1]
    alike = [curve(f"run {n}", "dpo", proxy=None, pairs=None) for n in range(20)]
    assert len(set(map(str, curve_styles(alike).values()))) == 20
    assert len(curve_styles([*alike, curve("one more", "dpo", proxy=None, pairs=None)])) == 21


def test_the_table_says_what_is_known_within_80_columns() -> None:
    lines = frontier_lines(
        document(
            curve("best-of-n few", "best-of-n", proxy="few", pairs=100),
            curve("a curve with a name that is long", "ppo", proxy="few", pairs=1234567, found=False),
        )
    )
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "0.15 [0.05, 0.25]" in text
    assert "2.00?" in text
    assert "none (too few)" in text
    assert "1,234,567" in text
    assert "0.012" in text
    assert "+0.05 [0.03, 0.07]" in text
    assert "far" not in text  # never at the same distance


def test_the_picture_is_svg_with_every_name() -> None:
    drawn = frontier_picture(document(curve("best-of-n <few>", "best-of-n", proxy="few", pairs=100)))
    root = ElementTree.fromstring(drawn)
    assert "best-of-n <few>" in "".join(root.itertext())
    assert "gain in the proxy" in "".join(root.itertext())
    without = frontier_picture(document(curve("dpo", "dpo", proxy=None, pairs=None)))
    assert "gain in the proxy" not in without
