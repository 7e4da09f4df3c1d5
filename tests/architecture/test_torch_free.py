"""What answers fast: the torch-free layers, `import assent` and every `--help` load neither torch nor an extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from assent.cli.entry import COMMANDS, DATA_COMMANDS
from tests.architecture.test_layers import TORCH_FREE, TORCH_FREE_FILES

BLOCKED = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "fastapi",
    "uvicorn",
    "sqlalchemy",
    "openai",
    "vllm",
)
HELP = [["--help"], *([name, "--help"] for name, *_ in COMMANDS), *(["data", n, "--help"] for n, *_ in DATA_COMMANDS)]

BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {BLOCKED!r}:
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Block())
"""


def run(code: str, *, block: str = BLOCK) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, check=False, timeout=600
    )


def test_help_of_every_command_needs_no_torch() -> None:
    code = f"""
from assent.cli import main
for argv in {HELP!r}:
    assert main(argv) == 0, argv
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    for name, *_ in COMMANDS:
        assert f"Usage: assent {name}" in done.stdout


def test_a_mistyped_command_is_told_without_torch_or_extras() -> None:
    done = run("from assent.cli import main; sys.exit(main(['dpoo']))")
    assert done.returncode == 2
    assert 'Did you mean "dpo"' in done.stderr
    assert "Traceback" not in done.stderr


STANDS_ON = {"feedback": ("sqlalchemy", "uvicorn")}
"""Packages of an extra that a torch-free layer may load all the same; its command does not load it for --help."""


@pytest.mark.parametrize("package", TORCH_FREE)
def test_torch_free_layers_load_without_torch(package: str) -> None:
    code = f"""
import importlib, pkgutil
package = importlib.import_module('assent.{package}')
for module in pkgutil.walk_packages(getattr(package, '__path__', []), 'assent.{package}.'):
    importlib.import_module(module.name)
"""
    blocked = BLOCK
    for name in STANDS_ON.get(package, ()):
        blocked = blocked.replace(repr(name), repr(""))
    done = run(code, block=blocked)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", TORCH_FREE_FILES)
def test_torch_free_files_of_other_layers_load_without_torch(module: str) -> None:
    done = run(f"import importlib; importlib.import_module('assent.{module}')")
    assert done.returncode == 0, done.stderr


def test_torch_is_blocked_where_it_is_tested_that_nothing_imports_it() -> None:
    assert "blocked: torch" in run("import torch").stderr
