"""Builds `assent_doctor`: the files of `assent` that reading logs and data takes, under another import name.

One source: nothing is written twice. A file is taken if a root needs it when it is imported. What is imported inside a
function is taken only if it is a root too; the rest (datasets of the hub, PyYAML, models) is not reached from here, or
says that it is missing.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
PACKAGE = HERE / "assent_doctor"
ROOTS = ("assent.commands.doctor_logs", "assent.integrations.trainer", "assent.data.loading", "assent.diagnosis.rows")
FOLDERS = ("assent.diagnosis.rules", "assent.diagnosis.data_rules")
"""Every file in them is a root: they are found by name when the doctor runs."""
IMPORT = re.compile(r"^(\s*(?:from|import) )assent(?=[.\s])", re.MULTILINE)


def main() -> None:
    if (SOURCE / "assent").is_dir():  # in an archive of the sources the package is there already
        write_package()
    setup()


def write_package() -> None:
    shutil.rmtree(PACKAGE, ignore_errors=True)
    for name in sorted(needed()):
        text = (HERE / "start.py" if name == "assent" else file_of(name)).read_text(encoding="utf-8")
        if name == "assent":
            version = re.search(r'^__version__ = "(.*)"$', file_of(name).read_text(encoding="utf-8"), re.MULTILINE)
            text += f'__version__ = "{version[1]}"\n'
        write(PACKAGE / file_of(name).relative_to(SOURCE / "assent"), text)
    write(PACKAGE / "__main__.py", (HERE / "main.py").read_text(encoding="utf-8"))
    (PACKAGE / "py.typed").touch()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(IMPORT.sub(r"\1assent_doctor", text), encoding="utf-8")


def needed() -> set[str]:
    """Names of the modules to take, packages included."""
    waiting = [*ROOTS, *(f"{folder}.{path.stem}" for folder in FOLDERS for path in file_of(folder).parent.glob("*.py"))]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found or not file_of(name).exists():
            continue
        found.add(name)
        waiting += [name.rpartition(".")[0]] if "." in name else []
        waiting += [] if name == "assent" else imported(file_of(name))
    return found


def file_of(name: str) -> Path:
    path = SOURCE / name.replace(".", "/").removesuffix("/__init__")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Modules of assent that the file imports when it is imported."""
    waiting: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    for node in waiting:
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            waiting += [*node.body, *node.orelse]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("assent."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "assent":
            yield from (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))


if __name__ == "__main__":
    main()
