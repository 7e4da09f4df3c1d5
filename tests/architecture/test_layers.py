"""Imports run one way: the design's table, held against every import at module level."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "assent"

BASE = frozenset({"types", "errors", "metrics"})
LOW = BASE | {"config"}
DATA = LOW | {"runs", "data"}
MODELS = DATA | {"models"}
ABOVE_MODELS = MODELS | {"rollouts", "rewards"}
MEASURE = ABOVE_MODELS | {"objectives"}
STAGES = MEASURE | {"engine", "inference", "evaluation"}

MAY_IMPORT: dict[str, frozenset[str]] = {
    "types": BASE,
    "errors": BASE,
    "metrics": BASE,
    "config": LOW,
    "objectives": frozenset(),
    "runs": DATA,
    "data": DATA,
    "diagnosis": DATA | {"diagnosis"},
    "reporting": DATA | {"diagnosis"},
    "models": MODELS,
    "engine": MODELS,
    "rollouts": ABOVE_MODELS,
    "rewards": ABOVE_MODELS,
    "inference": STAGES - {"engine"},
    "evaluation": STAGES - {"engine"},
    "stages": STAGES,
    "sandbox": STAGES | {"stages"},
    "pipelines": STAGES | {"stages", "sandbox", "diagnosis", "reporting"},
    "cli": LOW | {"pipelines"},
    "__init__": frozenset(),
    "__main__": frozenset({"cli"}),
}
"""Subpackages of assent that each may import at module level, besides itself."""

TORCH_FREE = ("types", "errors", "metrics", "config", "runs", "data", "diagnosis", "reporting")
HEAVY = {"torch", "transformers", "accelerate", "peft", "safetensors"}
THIRD_PARTY = {
    "types": set[str](),
    "errors": set[str](),
    "metrics": set[str](),
    "config": {"pydantic", "yaml"},
    "objectives": {"torch"},
}
"""Third-party packages of the layers that may use only these."""


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """`models` of src/assent/models/packing.py, `errors` of src/assent/errors.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_at_load(path: Path) -> Iterator[str]:
    """Every module imported when the file is: not those inside functions, nor under TYPE_CHECKING."""
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")).body)


def _imports(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}: write it out"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from _imports(node.body)
            yield from _imports(node.orelse)
        elif isinstance(node, ast.Try):
            yield from _imports([*node.body, *node.orelse, *node.finalbody])
            yield from (name for handler in node.handlers for name in _imports(handler.body))
        elif isinstance(node, ast.With | ast.ClassDef):
            yield from _imports(node.body)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_layer_may(path: Path) -> None:
    part = part_of(path)
    allowed = MAY_IMPORT[part] | {part}
    for name in imported_at_load(path):
        top, _, rest = name.partition(".")
        if top == "assent":
            used = rest.partition(".")[0]
            assert not used or used in allowed or used == "__version__", f"{part} may not import assent.{used}"
        elif part in THIRD_PARTY:
            assert top in sys.stdlib_module_names | THIRD_PARTY[part], f"{part} may not import {top}"
        elif part in TORCH_FREE:
            assert top not in HEAVY, f"{part} is torch-free and may not import {top}"


def test_there_is_no_cycle_of_modules() -> None:
    modules = {module_of(path): path for path in sources()}
    graph = {
        name: {used for used in imported_at_load(path) if used in modules and used != name}
        for name, path in modules.items()
    }
    done: set[str] = set()
    for name in graph:
        _visit(name, graph, (), done)


def _visit(name: str, graph: dict[str, set[str]], trail: tuple[str, ...], done: set[str]) -> None:
    assert name not in trail, f"a cycle: {' -> '.join((*trail[trail.index(name) :], name))}"
    if name not in done:
        for used in sorted(graph[name]):
            if not name.startswith(f"{used}."):  # a package's own __init__ is loaded before its modules
                _visit(used, graph, (*trail, name), done)
        done.add(name)


def test_no_subpackage_bears_a_public_functions_name() -> None:
    import assent

    taken = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    assert not taken & set(assent.__all__)
    functions = ["a2c", "best_of_n", "compare", "dpo", "evaluate", "explain", "frontier", "grpo", "kto"]
    functions += [
        "merge",
        "new_model",
        "online_dpo",
        "ppo",
        "report",
        "reward",
        "rloo",
        "run",
        "sample",
        "serve_check",
        "sft",
    ]
    assert assent.__all__ == ["Result", *functions]
    assert all(callable(getattr(assent, name)) for name in assent.__all__)
    with pytest.raises(AttributeError, match="no attribute 'dpoo'"):
        assent.dpoo  # noqa: B018
