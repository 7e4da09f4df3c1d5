"""Builds what a release consists of into dist: wheel, sdist, and the bill of materials of the wheel.

    make dist

The bill (CycloneDX, JSON) lists the wheel and all that it needs, extras left out, at the versions of constraints.txt,
with licences and with who needs whom. An environment that has nothing else is made for it below build/, and another one
for the tools, whose own needs do not agree with constraints.txt. Whoever builds the same from the same gets the same
bill, byte for byte.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ("pip>=25", "build==1.6.1", "cyclonedx-bom==7.5.0")


def main() -> int:
    out, folder = ROOT / "dist", ROOT / "build" / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    tools, ours = tools_in(folder / "tools"), environment(sys.executable, folder / "env")
    wheel = build(tools, out)
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pip = [tools, "-m", "pip", "--python", ours, "install", "--quiet"]
    run([*pip, *(pin for pin in pins if pin.startswith("torch=="))])  # first and alone: as the Makefile does
    run([*pip, "--constraint", ROOT / "constraints.txt", wheel])
    file = out / f"{wheel.name.removesuffix('-py3-none-any.whl')}.cdx.json"
    run(bill(tools, ours, file))
    print("\n".join(str(path.relative_to(ROOT)) for path in [*out.glob("*.tar.gz"), wheel, file]))
    return 0


def tools_in(folder: Path) -> Path:
    """The interpreter of a new environment with what builds and bills."""
    run([sys.executable, "-m", "venv", "--clear", folder])
    python = folder / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", "--upgrade", *TOOLS])
    return python


def build(tools: Path, out: Path) -> Path:
    """Wheel and sdist, in a folder that has nothing else; the wheel is built from the sdist. Gives the wheel."""
    shutil.rmtree(out, ignore_errors=True)
    run([tools, "-m", "build", "--outdir", out, ROOT])
    [wheel] = out.glob("assent-*.whl")
    return wheel


def environment(python: str, folder: Path) -> Path:
    """The interpreter of a new environment that has nothing, not even pip."""
    run([python, "-m", "venv", "--without-pip", folder])
    return folder / "bin" / "python"


def bill(tools: Path, python: Path, file: Path) -> list[object]:
    """The command that writes what the environment of `python` has, as Assent's bill, and checks it by the schema."""
    as_ours = ["--pyproject", ROOT / "pyproject.toml", "--mc-type", "library", "--output-reproducible", "--validate"]
    return [tools, "-m", "cyclonedx_py", "environment", python, *as_ours, "--of", "JSON", "--output-file", file]


def run(command: list[object], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs it in the root. What is installed is meant, and not a source tree that PYTHONPATH names."""
    words = [str(word) for word in command]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, check=False, cwd=ROOT, env=variables, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


if __name__ == "__main__":
    sys.exit(main())
