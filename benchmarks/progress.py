"""Draws docs/images/progress.svg: how far `assent demo --fast` is, in a terminal of 80 columns.

    python benchmarks/progress.py

Runs the demo in a pseudo-terminal and keeps one drawing of its bars each from the middle of `dpo` and of `ppo`.
"""

from __future__ import annotations

import io
import os
import pty
import re
import struct
import sys
import tempfile
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
WIDTH = 80
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]|\r")
"""All but colours, which end in m."""


def main() -> None:
    drawings = _drawings(_printed())
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print("$ assent demo --fast", highlight=False)
    for name in ("dpo", "ppo"):
        own = [drawing for drawing in drawings if plain(drawing).splitlines()[-1].startswith(f"{name} ")]
        console.print()
        console.print(Text.from_ansi(own[len(own) * 2 // 3]), soft_wrap=True)
    for line in console.export_text(clear=False).splitlines():
        print(line.rstrip())
    picture = console.export_svg(title="assent demo --fast")
    picture = re.sub(r"\s*@font-face \{.*?\}\n", "\n", picture, flags=re.DOTALL)  # a page fetches nothing
    picture = "\n".join(line.rstrip() for line in picture.splitlines()) + "\n"
    (ROOT / "docs" / "images" / "progress.svg").write_text(picture, encoding="utf-8")


def plain(drawing: str) -> str:
    return Text.from_ansi(drawing).plain


def _printed() -> str:
    """All that the demo writes to a terminal of 80 columns."""
    with tempfile.TemporaryDirectory() as folder:
        process, terminal = pty.fork()
        if process == 0:
            os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
            out = str(Path(folder) / "demo")
            os.execv(sys.executable, [sys.executable, "-m", "assent", "demo", "--fast", "--output-dir", out])
        ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
        parts = []
        while True:
            try:
                part = os.read(terminal, 65_536)
            except OSError:  # the other end is closed
                part = b""
            if not part:
                os.waitpid(process, 0)
                return b"".join(parts).decode("utf-8", errors="replace")
            parts.append(part)


def _drawings(printed: str) -> list[str]:
    """Each time the bars were drawn: rich clears their lines before it draws them again."""
    parts = (ESCAPES.sub("", part).strip("\n") for part in re.split(r"(?:\x1b\[2K\x1b\[1A)+\x1b\[2K", printed))
    return [part for part in parts if part]


if __name__ == "__main__":
    main()
