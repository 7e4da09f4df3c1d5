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
NUMBERS = BASE | {"config", "statistics"}
DATA = NUMBERS | {"runs", "data"}
JUDGING = DATA | {"judging"}
DIAGNOSIS = JUDGING | {"diagnosis"}
MODELS = DATA | {"models"}
ABOVE_MODELS = MODELS | {"judging", "rollouts", "rewards"}
INFERENCE = ABOVE_MODELS | {"objectives", "inference"}
STAGES = INFERENCE | {"engine", "evaluation", "diagnosis", "planning"}
COMMANDS = STAGES | {"stages", "sandbox", "pipelines", "integrations", "reporting", "planning", "feedback"}

MAY_IMPORT: dict[str, frozenset[str]] = {
    "types": BASE,
    "errors": BASE,
    "metrics": BASE,
    "config": BASE,
    "statistics": frozenset({"errors"}),
    "objectives": frozenset(),
    "runs": DATA,
    "data": DATA,
    "judging": JUDGING,
    "diagnosis": DIAGNOSIS,
    "reporting": DIAGNOSIS,
    "planning": DIAGNOSIS | {"planning", "models.shape", "models.architectures"},
    "feedback": JUDGING,
    "models": MODELS,
    "engine": MODELS,
    "rollouts": ABOVE_MODELS,
    "rewards": ABOVE_MODELS,
    "inference": INFERENCE,
    "evaluation": INFERENCE,
    "stages": STAGES,
    "sandbox": STAGES | {"stages"},
    "pipelines": BASE | {"config", "runs", "data"},
    "integrations": BASE | {"config", "runs", "diagnosis"},
    "commands": COMMANDS,
    "cli": BASE | {"config", "pipelines", "commands"},
    "__init__": frozenset({"commands"}),
    "__main__": frozenset({"cli"}),
}
"""Parts of assent that each may import, besides itself: at the top of a file, inside functions, under TYPE_CHECKING."""

EXCEPTIONS: dict[str, dict[str, str]] = {
    "cli/entry.py": {"assent.runs.files": "--json is written as the run folder's files are"},
}
"""File -> imported module -> why it may, against the table or in a circle."""

TORCH_FREE = (
    *("types", "errors", "metrics", "config", "statistics", "runs", "data", "judging", "diagnosis", "reporting"),
    "pipelines",
    "planning",
    "feedback",
)
TORCH_FREE_FILES = ("models.shape", "models.architectures")
"""Of layers that are not. No import of theirs, inside functions either, is of torch or what needs it."""
HEAVY = {"torch", "transformers", "accelerate", "peft", "safetensors"}
THIRD_PARTY = {
    "types": set[str](),
    "errors": set[str](),
    "metrics": set[str](),
    "config": {"pydantic", "yaml"},
    "statistics": {"numpy", "scipy", "statsmodels", "sklearn"},
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


def imports(path: Path) -> set[str]:
    """Every module that the file imports, anywhere in it; of `from a import b` both `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}: write it out"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imported_at_load(path: Path) -> Iterator[str]:
    """Every module imported when the file is: not those inside functions, nor under TYPE_CHECKING."""
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")).body)


def _imports(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
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
    excused = EXCEPTIONS.get(str(path.relative_to(PACKAGE)), {})
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "assent":
            used = rest.partition(".")[0]
            file = ".".join(name.split(".")[1:3])  # of a part from which only some files may be imported
            is_excused = file in allowed or any(name == module or name.startswith(f"{module}.") for module in excused)
            assert is_excused or not used or used in allowed or used == "__version__", f"{part} may not import {name}"
        elif part in THIRD_PARTY:
            assert top in sys.stdlib_module_names | THIRD_PARTY[part], f"{part} may not import {top}"
    for name in imported_at_load(path):
        assert part not in TORCH_FREE or name.partition(".")[0] not in HEAVY, f"{part} is torch-free: {name}"


@pytest.mark.parametrize("module", TORCH_FREE_FILES)
def test_a_torch_free_file_imports_nothing_heavy(module: str) -> None:
    assert not {name.partition(".")[0] for name in imports(PACKAGE / f"{module.replace('.', '/')}.py")} & HEAVY


def test_every_exception_is_needed() -> None:
    for file, modules in EXCEPTIONS.items():
        for module, reason in modules.items():
            assert reason
            assert module in imports(PACKAGE / file), f"{file} does not import {module} any more"


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions and under TYPE_CHECKING count."""
    modules = {module_of(path): path for path in sources()}
    graph = {
        name: {used for used in imports(path) if used in modules and used != name} for name, path in modules.items()
    }
    done: set[str] = set()
    for name in graph:
        _visit(name, graph, (), done)


def _visit(name: str, graph: dict[str, set[str]], trail: tuple[str, ...], done: set[str]) -> None:
    assert name not in trail, f"a circle: {' -> '.join((*trail[trail.index(name) :], name))}"
    if name not in done:
        for used in sorted(graph[name]):
            if not name.startswith(f"{used}."):  # a package's own __init__ is loaded before its modules
                _visit(used, graph, (*trail, name), done)
        done.add(name)


def test_no_subpackage_bears_a_public_functions_name() -> None:
    import assent

    taken = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    assert not taken & set(assent.__all__)
    functions = [
        "a2c",
        "best_of_n",
        "compare",
        "convert_config",
        "doctor",
        "dpo",
        "evaluate",
        "explain",
        "frontier",
        "grpo",
        "iterate",
        "judge",
        "kto",
        "label",
    ]
    functions += [
        "merge",
        "monitor",
        "new_model",
        "online_dpo",
        "plan",
        "ppo",
        "report",
        "reward",
        "rloo",
        "rollback",
        "run",
        "sample",
        "score",
        "serve_check",
        "sft",
        "update",
    ]
    assert assent.__all__ == ["Result", *functions]
    assert all(callable(getattr(assent, name)) for name in assent.__all__)
    with pytest.raises(AttributeError, match="no attribute 'dpoo'"):
        assent.dpoo  # noqa: B018
