"""Writes the losses' part of papers.md anew, from the declarations in src/assent/config/losses.py: `make papers`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from assent.config import losses
from assent.config.losses import LossDeclaration

PAGE = Path(__file__).parent / "papers.md"
BEGIN, END = "<!-- losses: begin -->\n", "<!-- losses: end -->\n"
HEADINGS = {
    "PREFERENCE_LOSSES": "Comparisons: `assent dpo`",
    "THUMBS_LOSSES": "Thumbs (`kto`)",
    "RANKING_LOSSES": "Rankings of K completions",
    "SCORE_LOSSES": "Scores of single completions",
}


def registries() -> dict[str, Mapping[str, LossDeclaration]]:
    """Every table of declarations in config/losses.py, by its name there."""
    return {name: value for name, value in vars(losses).items() if name.endswith("_LOSSES")}


def with_losses(page: str) -> str:
    """The page with what is declared today between its marks."""
    before, rest = page.split(BEGIN)
    parts = [_part(HEADINGS[name], declared) for name, declared in registries().items()]
    return before + BEGIN + "\n" + "\n".join(parts) + "\n" + END + rest.split(END)[1]


def _part(heading: str, declared: Mapping[str, LossDeclaration]) -> str:
    rows = ["| `--loss-type` | what | reference | scope | at zero margin |", "|---" * 5 + "|"]
    for loss in declared.values():
        reference = "needed" if loss.needs_reference else "none"
        zero = f"{loss.zero_margin_value(**loss.resolve({})):.4f}" + (" for two" if "many" in loss.accepts else "")
        rows.append(_row(f"`{loss.name}`", loss.summary, reference, loss.scope, zero))
    return "\n".join([f"## {heading}", "", *rows, "", *(_formula(loss) for loss in declared.values())])


def _formula(loss: LossDeclaration) -> str:
    lines = [f"**{loss.name}** `{loss.equation}`", "", loss.paper, ""]
    if loss.accepts:
        lines += [f"Accepts {', '.join(f'`{name}`' for name in sorted(loss.accepts))}.", ""]
    if weight := loss.nll_weight(**loss.resolve({})):
        lines += [f"Plus {weight:g} times the chosen completion's negative log-likelihood per token, by default.", ""]
    if loss.hyperparameters:
        lines += [_row("hyperparameter", "default", "range", "meaning"), "|---" * 4 + "|"]
        lines += [
            _row(f"`{name}`", _number(known.default), known.range, known.help)
            for name, known in loss.hyperparameters.items()
        ]
        lines.append("")
    return "\n".join(lines)


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(with_losses(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
