"""The table of an evaluation as text within 80 columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from assent.evaluation.table import Figures, PolicyRow, PolicyTable, plus_minus
from assent.runs.text_table import WIDTH, aligned, cut
from assent.statistics.intervals import Estimate

LEDGER_COLUMNS = {
    "cost/labels": "labels",
    "cost/completions_sampled": "sampled",
    "cost/reward_calls": "rewards",
    "cost/flops": "TFLOP",
    "cost/seconds": "seconds",
    "cost/peak_memory_bytes": "peak MB",
    "cost/models_resident": "models",
}
_LEDGER_UNIT = {"cost/flops": 1e12, "cost/peak_memory_bytes": 1e6}


def table_lines(table: PolicyTable, reward_model: Sequence[str] = ()) -> list[str]:
    """The table as text. The most important figures come last, where a terminal shows them: first slices, safety, form,
    comparisons and the lines about the reward model, then greedy figures, sampled figures and costs."""
    baseline = cut(table.baseline, 9)
    before, after = f"{table.num_prompts} prompts, judged by ", f"; {table.confidence:.0%} intervals"
    lines = [before + cut(table.scorer, WIDTH - len(before) - len(after)) + after]
    lines += _slice_lines(table)
    lines += _safety_lines(table)
    lines += _form_lines(table)
    lines += _comparison_lines(table, baseline)
    lines += reward_model
    for decoding in ("greedy", "sampled"):
        body = [_cells(row, decoding) for row in table.rows if getattr(row, decoding) is not None]
        if body:
            kl = "KL, nats" if decoding == "sampled" else ""
            lines += ["", *aligned([(decoding, "score", f"wins vs {baseline}", kl, "tokens", "ended"), *body])]
    return lines + _disagreement_lines(table) + _ledger_lines(table)


def _disagreement_lines(table: PolicyTable) -> list[str]:
    """The policies whose greedy answers clearly lose where their sampled ones win, or the other way round."""
    opposite = [
        cut(row.name, 20)
        for row in table.rows
        if row.greedy is not None
        and (one := row.sampled.win_rate) is not None
        and (other := row.greedy.win_rate) is not None
        and (one.value - 0.5) * (other.value - 0.5) < 0
        and any(rate.low > 0.5 or rate.high < 0.5 for rate in (one, other))
    ]
    names = ", ".join(opposite)
    return (
        ["", f"greedy and sampled answers disagree on whether it beats {cut(table.baseline, 9)}: {names}"]
        if names
        else []
    )


def _cells(row: PolicyRow, decoding: str) -> tuple[str, ...]:
    figures: Figures = getattr(row, decoding)
    kl = "" if decoding != "sampled" else "—" if row.kl is None else row.kl.text()
    return (
        row.name,
        _shown(figures.gold, plus_minus),
        _shown(figures.win_rate, Estimate.text),
        kl,
        _shown(figures.length, lambda e: f"{e.value:.1f}"),
        _shown(figures.eos_rate, lambda e: f"{e.value:.0%}"),
    )


def _comparison_lines(table: PolicyTable, baseline: str) -> list[str]:
    """Sampled answers: difference in score, win rate at equal length, prompts needed; ratings; the judge's record."""
    lines: list[str] = []
    rows = [row for row in table.rows if row.sampled.win_rate is not None]
    if rows:
        needed = table.precision is not None
        head = (f"vs {baseline}", "difference", "wins at equal length", f"±{table.precision:g} needs" if needed else "")
        body = [
            (
                row.name,
                _shown(row.sampled.difference, plus_minus),
                "—" if row.sampled.length_controlled is None else row.sampled.length_controlled.win_rate.text(),
                "" if not needed else "—" if row.sampled.prompts_needed is None else f"{row.sampled.prompts_needed:,}",
            )
            for row in rows
        ]
        lines += ["", *aligned([head, *body])]
    if table.wins:
        elo = [(row.name, _shown(row.rating, lambda e: e.text(digits=0))) for row in table.rows]
        lines += ["", *aligned([("Bradley–Terry", "Elo points"), *elo])]
    if table.judge is not None:
        agree, first = (table.judge[name] for name in ("consistent", "first_wins"))
        texts = ["—" if one is None else Estimate.from_dict(one).text() for one in (agree, first)]
        lines += ["", f"both orders agree: {texts[0]}; the answer shown first wins: {texts[1]}"]
        calls, invalid = table.judge["calls"], table.judge["invalid"]
        lines += [f"{calls:,} verdicts requested; {invalid:,} replies were not a verdict and count as ties"]
    return lines


def _form_lines(table: PolicyTable) -> list[str]:
    head = ("sampled", "chars", "entropy, nats", "KL by k3", "dist-1", "dist-2", "refuses")
    body = [
        (
            row.name,
            _shown(row.sampled.characters, lambda e: f"{e.value:.0f}"),
            _shown(row.sampled.entropy, plus_minus),
            _shown(row.sampled.k3, plus_minus),
            _shown(row.sampled.distinct_1, lambda e: f"{e.value:.2f}"),
            _shown(row.sampled.distinct_2, lambda e: f"{e.value:.2f}"),
            _shown(row.sampled.refusal_rate, lambda e: f"{e.value:.1%}"),
        )
        for row in table.rows
    ]
    return ["", *aligned([head, *body])]


def _safety_lines(table: PolicyTable) -> list[str]:
    """A row for each fault and attribute, a column for each policy, as many columns as fit."""
    names = list(dict.fromkeys(name for row in table.rows for name in row.sampled.safety))
    lines: list[str] = []
    for start in range(0, len(table.rows) if names else 0, 3):
        rows = table.rows[start : start + 3]
        head = ("safety", *(cut(row.name, 17) for row in rows))
        body = [(name, *(_shown(row.sampled.safety.get(name), Estimate.text) for row in rows)) for name in names]
        lines += ["", *aligned([head, *body], widest_name=20)]
    return lines


def _slice_lines(table: PolicyTable) -> list[str]:
    lines: list[str] = []
    for column in dict.fromkeys(column for row in table.rows for column in row.sampled.slices):
        body = [
            (
                f"{value} · {row.name}",
                _shown(figures.gold, lambda e: plus_minus(e) if math.isfinite(e.high) else e.text()),
                _shown(figures.win_rate, Estimate.text),
                _shown(figures.k1, plus_minus),
                _shown(figures.refusal_rate, lambda e: f"{e.value:.0%}"),
                f"{figures.characters.clusters}",
            )
            for value in dict.fromkeys(value for row in table.rows for value in row.sampled.slices.get(column, {}))
            for row in table.rows
            if (figures := row.sampled.slices.get(column, {}).get(value)) is not None
        ]
        head = (f"by {column}", "score", "wins", "KL", "refuses", "n")
        lines += ["", *aligned([head, *body], widest_name=18)]
    return lines


def _ledger_lines(table: PolicyTable) -> list[str]:
    names = [name for name in LEDGER_COLUMNS if any(name in row.ledger for row in table.rows)]
    if not names:
        return []
    body = [
        (row.name, *(_amount(row.ledger[n] / _LEDGER_UNIT.get(n, 1)) if n in row.ledger else "—" for n in names))
        for row in table.rows
    ]
    return ["", *aligned([("cost", *(LEDGER_COLUMNS[name] for name in names)), *body])]


def _shown(estimate: Estimate | None, how: Callable[[Estimate], str]) -> str:
    return "—" if estimate is None else how(estimate)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
