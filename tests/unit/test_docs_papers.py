"""docs/papers.md says of every declared loss what its declaration says. Run this file to write its table anew."""

from __future__ import annotations

import sys
from pathlib import Path

from assent.config.losses import PREFERENCE_LOSSES, LossDeclaration

PAGE = Path(__file__).parents[2] / "docs" / "papers.md"
BEGIN, END = "<!-- losses: begin -->\n", "<!-- losses: end -->\n"


def table() -> str:
    head = (
        "| `--loss-type` | what | equation | hyperparameters | reference | at zero margin | source |\n"
        + "|---" * 7
        + "|\n"
    )
    return head + "".join(_row(loss) for loss in PREFERENCE_LOSSES.values())


def _row(loss: LossDeclaration) -> str:
    hyperparameters = [
        f"`{name}` {known.default:g}, {known.range}: {known.help}" for name, known in loss.hyperparameters.items()
    ]
    defaults = {name: known.default for name, known in loss.hyperparameters.items()}
    cells = [
        f"`{loss.name}`",
        loss.summary,
        f"`{loss.equation}`",
        "; ".join(hyperparameters) or "none",
        "needed" if loss.needs_reference else "none",
        f"{loss.zero_margin_value(**defaults):.4f}",
        loss.paper,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def with_table(page: str) -> str:
    """The page with the table of today between its marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def test_the_page_of_papers_is_the_declarations() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page), f"write the table anew: python {Path(__file__).name}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
