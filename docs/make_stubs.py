"""Writes src/assent/__init__.pyi anew, from the options of the commands: `make stubs`."""

from __future__ import annotations

from pathlib import Path

from assent.commands import functions
from assent.commands.signatures import stub

STUB = Path(__file__).parents[1] / "src" / "assent" / "__init__.pyi"

if __name__ == "__main__":
    STUB.write_text(stub(functions), encoding="utf-8")
    print(f"{STUB} is written")
