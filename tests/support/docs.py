"""What the README and the pages of docs/ and examples/ hold: blocks of code, commands, options, links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_FOR_USERS = {"decisions.md", "NOTES.md"}
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name not in NOT_FOR_USERS),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    """The contents of the page's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


LAUNCHERS = {"torchrun", "accelerate"}


def commands(page: Path) -> list[list[str]]:
    """The commands of the page's sh blocks, in order, as words. A line that ends in a backslash goes on. A launcher's
    command is what one of its processes runs."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    found = [words for line in lines if (words := shlex.split(line, comments=True))]
    return [words[words.index("assent") :] if words[0] in LAUNCHERS else words for words in found]


def quoted(page: Path) -> list[str]:
    """What stands between backticks in the page's prose."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def first_column(page: Path, head: str) -> list[str]:
    """The quoted words in the first cells of the page's table whose first heading is `head`, in order."""
    rows = page.read_text(encoding="utf-8").split(f"| {head} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [word for row in rows for word in re.findall(r"`([^`]+)`", row.split("|")[1])]
