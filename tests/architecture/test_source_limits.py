"""Limits on size, and words that have no place in this package's code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "assent").rglob("*.py"))
EVERYTHING = sorted(
    path
    for folder in ("src/assent", "tests", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 80

BANNED = {
    "pickle": r"\bpickle\b|\bcPickle\b|\bdill\b|\bjoblib\b",
    "torch.load": r"\btorch\.load\b",
    "eval": r"(?<![\w.])eval\(",
    "exec": r"(?<![\w.])exec\(",
    "shell": r"shell\s*=\s*True|\bos\.system\b|\bos\.popen\b",
    "remote code": r"trust_remote_code(?!=False)",
    "unsafe YAML": r"\byaml\.(unsafe_)?load\(|\byaml\.full_load",
    "promises": r"\bTODO\b|\bFIXME\b|\bXXX\b|\bNotImplementedError\b",
}
"""Patterns over code: comments and texts aside, so that a message may say that there is no pickle."""
HOME = re.compile(r"/(home|Users)/\w+|(?<![\w.])/(root|work|tmp)/")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", EVERYTHING, ids=shown)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{node.name} is too long"


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_no_banned_word_stands_in_code(path: Path) -> None:
    code = _without_texts(path.read_text(encoding="utf-8"))
    for word, pattern in BANNED.items():
        found = re.search(pattern, code)
        assert found is None, f"{word}: {found.group()!r}" if found else ""


LOADERS = {"from_pretrained", "from_config", "load_dataset", "LLM"}


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_every_loader_is_told_to_run_no_code(path: Path) -> None:
    """Without the option, transformers asks at the terminal, and runs a folder's code after `y` (law 13)."""
    assert _loaders_without_the_option(path.read_text(encoding="utf-8")) == []


def _loaders_without_the_option(code: str) -> list[str]:
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) in LOADERS
        and not any(k.arg == "trust_remote_code" and ast.unparse(k.value) == "False" for k in node.keywords)
    ]


def test_a_loader_without_the_option_is_found() -> None:
    assert _loaders_without_the_option("AutoModel.from_pretrained(folder)")
    assert _loaders_without_the_option("kind.from_config(config, trust_remote_code=None)")
    assert not _loaders_without_the_option("datasets.load_dataset(name, trust_remote_code=False)")
    assert re.search(BANNED["remote code"], "f(trust_remote_code=True)")
    assert re.search(BANNED["remote code"], "options['x'], trust_remote_code = True, 1")


@pytest.mark.parametrize("path", EVERYTHING, ids=shown)
def test_no_path_of_one_machine(path: Path) -> None:
    if path.name == Path(__file__).name:
        return
    found = HOME.search(path.read_text(encoding="utf-8"))
    assert found is None, found.group() if found else ""


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent.name == "stages"], ids=shown)
def test_a_stage_reads_only_options_that_its_configuration_declares(path: Path) -> None:
    """With a default at hand, a misspelt name would be that default, in silence (law 3)."""
    found = re.search(r"getattr\((self\.)?config, \"|config: (Any|object)\b", path.read_text(encoding="utf-8"))
    assert found is None, found.group() if found else ""


def _without_texts(text: str) -> str:
    """The code as Python reads it back, every string emptied: comments and docstrings are gone."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)


def test_a_banned_word_is_found_in_code_and_not_in_a_text() -> None:
    assert re.search(BANNED["pickle"], _without_texts("import pickle"))
    assert re.search(BANNED["eval"], _without_texts("x = eval(y)"))
    assert not re.search(BANNED["eval"], _without_texts("model.eval()"))
    assert not re.search(BANNED["pickle"], _without_texts("'''no pickle'''\nx = 'pickle'  # pickle"))
