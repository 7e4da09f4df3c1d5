"""docs/architecture.md and its neighbours say what is so: tables, laws, the files and functions that they name."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.test_layers import BASE, MAY_IMPORT, PACKAGE, THIRD_PARTY, TORCH_FREE
from tests.support.docs import ROOT

PAGE = ROOT / "docs" / "architecture.md"
FOR_CONTRIBUTORS = [PAGE, *(ROOT / name for name in ("CONTRIBUTING.md", "docs/NOTES.md", "docs/decisions.md"))]
NAMED = re.compile(r"`((?:[\w-]+/)*[\w-]+\.py)(?:: ([\w.]+))?`")
CITED = re.compile(r"\b[Ll]aws? (\d+)((?:(?:, | and | to )\d+)*)(?! of \d)")


def section(title: str) -> str:
    """The page from a heading to the next of its rank."""
    text = PAGE.read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def importable(cell: str) -> frozenset[str]:
    """What a cell of the table of imports allows: names, `base`, and "all of" a part and of what it may import."""
    parts = set(quoted(cell)) | (BASE if "base" in cell else set())
    for name in quoted(" ".join(re.findall(r"all of `\w+`", cell))):
        parts |= MAY_IMPORT[name]
    return frozenset(parts)


def test_the_table_of_imports_is_the_one_that_is_held() -> None:
    table = {
        part: importable(may) | {part}
        for names, may, _ in rows(section("Who may import whom"))
        for part in quoted(names)
    }
    assert table == {part: allowed | {part} for part, allowed in MAY_IMPORT.items()}


def test_the_table_of_imports_says_which_packages_are_held_off() -> None:
    others = {part: cell for names, _, cell in rows(section("Who may import whom")) for part in quoted(names)}
    only = {part: set(cell.split(", ")) for part, cell in others.items() if cell not in ("any", "no torch")}
    assert {part: set() if names == {"standard library only"} else names for part, names in only.items()} == THIRD_PARTY
    free = {part for part, cell in others.items() if cell == "no torch"} | {p for p in only if "torch" not in only[p]}
    assert free == set(TORCH_FREE)


def test_the_layout_has_every_part() -> None:
    parts = [part for names, *_ in rows(section("Layout")) for part in quoted(names)]
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert sorted(parts) == sorted(there - {"__init__", "__main__"})


def cited_laws(text: str) -> set[int]:
    """Of "law 5", "laws 6 and 10", "laws 1 to 13"."""
    found = set()
    for first, more in CITED.findall(text):
        numbers = [int(first), *map(int, re.findall(r"\d+", more))]
        found |= set(range(numbers[0], numbers[-1] + 1)) if " to " in more else set(numbers)
    return found


def test_every_law_that_is_cited_is_there() -> None:
    laws = [
        int(number)
        for number in re.findall(r"^### Law (\d+): \S", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert laws == list(range(1, 14))
    folders = ("src", "tests", "benchmarks", "examples", "docs")
    files = [path for folder in folders for kind in ("py", "md") for path in (ROOT / folder).rglob(f"*.{kind}")]
    cited = {
        path: cited_laws(path.read_text(encoding="utf-8"))
        for path in [*files, *ROOT.glob("*.md")]
        if path != Path(__file__)
    }
    assert sum(map(len, cited.values())) > 40  # they were found
    unknown = {str(path.relative_to(ROOT)): found for path, numbers in cited.items() if (found := numbers - set(laws))}
    assert not unknown


def test_laws_are_found_as_they_are_cited() -> None:
    assert cited_laws("(law 5); laws 6 and 10, laws 1 to 3. Law 8: x") == {1, 2, 3, 5, 6, 8, 10}
    assert cited_laws("law 5 of 5 and by-laws") == set()


def definitions(path: Path) -> set[str]:
    """Names that a file defines: `function`, `Class.method`, `outer.inner`, and constants and fields."""
    names: set[str] = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(prefix + node.name)
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(prefix + node.target.id)
            elif isinstance(node, ast.Assign):
                names.update(prefix + target.id for target in node.targets if isinstance(target, ast.Name))
            elif isinstance(node, ast.If | ast.With | ast.Try | ast.For | ast.While):
                visit(node.body, prefix)

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return names


@pytest.mark.parametrize("page", FOR_CONTRIBUTORS, ids=lambda page: page.name)
def test_every_file_and_function_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = NAMED.findall(text)
    assert named
    for file, name in named:
        path = next((root / file for root in (PACKAGE, ROOT) if (root / file).is_file()), None)
        assert path is not None, f"no file {file}"
        assert not name or name in definitions(path), f"no {name} in {file}"
    for folder in re.findall(r"`((?:src|tests|benchmarks|docs|examples)/[\w/-]*)`", text):
        assert (ROOT / folder).exists(), folder


@pytest.mark.slow
def test_the_walks_name_every_function_that_is_crossed() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "hops.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ways = json.loads(done.stdout)
    for what, way in ways.items():
        text = section(f"The way of one {what}")
        missing = set(way["crossed"]) - {f"{file}: {name}" for file, name in NAMED.findall(text)}
        assert not missing, f"the way of one {what} does not name them"
        assert f"crosses **{way['functions']} functions in {way['files']} files**" in " ".join(text.split())
