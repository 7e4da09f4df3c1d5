"""Builds the site from the pages of the repository into build/site: `make site`.

Pages are copied, and their links are led to the site's pages. Written anew each time: the reference, from every
command's own help and the stub of the Python functions; a page for each case, with its file and the kept output
(docs/cases, by make_cases.py). The site has no address of its own and asks no other server: it can be opened from disk.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()([^)\s#]*)(#[^)\s]*)?(\))")
SHIM = "https://unpkg.com/iframe-worker/shim"
CHAPTERS = {
    "Start": ["index.md", "guide.md", "sandbox.md", "coming-from.md"],
    "Concepts": "concepts/*.md",
    "Prepare": ["data.md", "label.md", "judge.md", "plan.md", "pipelines.md", "iterate.md", "runs.md"],
    "Train": ["preference.md", "reward-models.md", "rlhf.md", "rewards.md", "adapters.md", "architectures.md",
              "papers.md", "scaling.md", "large-files.md", "reliability.md"],
    "Sample and serve": ["inference.md", "serving.md"],
    "Measure": ["evaluation.md", "compare.md", "over-optimisation.md", "report.md", "explain.md"],
    "Diagnose and watch": ["doctor.md", "add-a-rule.md", "monitor.md", "update.md"],
    "Cases": "cases/*.md",
    "Examples": "examples/*.md",
    "Reference": "reference/*.md",
    "Develop": "*",
}  # fmt: skip
"""The site's chapters, in order. Pages that are not there yet are passed over; `*` takes what no chapter has."""


FIRST = ("index.md", "reference/python.md")
"""What stands first in its chapter."""
LAST_FOUND = "---\nsearch: {boost: 0.001}\n---\n"
"""Of pages for developers: who searches for a word wants to use it first. A word in a title counts a thousandfold."""


def pages() -> dict[str, str]:
    """From a file of the repository to its page in the site."""
    named = {"README.md": "index.md", "docs/README.md": "guide.md", "benchmarks/README.md": "benchmarks/index.md"}
    named |= {"examples/cases/README.md": "cases/index.md"}
    patterns = ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/*/README.md")
    found = [page for pattern in patterns for page in ROOT.glob(pattern)]
    for page in sorted(found):
        name = page.relative_to(ROOT).as_posix()
        inside = name.removeprefix("docs/")
        if name.startswith("examples/"):
            inside = f"examples/{page.parent.name}.md"
        named.setdefault(name, inside)
    return named | {f"examples/cases/{case.name}": f"cases/{case.stem}.md" for case in cases()}


def cases() -> list[Path]:
    return sorted(ROOT.glob("examples/cases/[0-9]*.py"))


def led(text: str, source: str, places: dict[str, str], out: Path) -> str:
    """The page with its links led to pages of the site; files that are no page are copied beside them."""

    def target(match: re.Match[str]) -> str:
        link, anchor = match[2], match[3] or ""
        if not link or "://" in link or link.startswith("mailto:"):
            return match[0]
        file = (ROOT / source).parent.joinpath(link).resolve()
        name = file.relative_to(ROOT).as_posix()
        place = places.get(name) or places.get(f"{name}/README.md")
        if place is None:
            assert file.is_file(), f"{source}: {link} leads to no page and no file"
            place = name.removeprefix("docs/") if file.suffix in (".png", ".svg") else f"files/{name}.txt"
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, out / place)
        return "](" + os.path.relpath(place, Path(places[source]).parent) + anchor + ")"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(target, part) for part in parts)


def case_page(case: Path) -> str:
    """Name and answer as the list of cases has them, question, output as it was kept, and the file."""
    listed = (ROOT / "examples/cases/README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| (\d+) \| \[(.*?)\]\({case.name}\) \| (.*) \| `(.*)` \|$", listed, flags=re.MULTILINE)
    assert row, f"examples/cases/README.md lists no {case.name}"
    source = case.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(source)) or ""
    question = re.sub(r"^\s*python examples/\S+.*$", "", docstring, flags=re.MULTILINE).strip()
    parts = [f"# {row[1]}. {row[2]}", _sentence(question.split(":", 1)[-1]), f"**Answer.** {row[3]}."]
    parts += [f"```sh\n{row[4]}\n```", "## What it prints"]
    kept = ROOT / "docs" / "cases" / f"{case.stem}.txt"
    if kept.is_file():
        head, _, output = kept.read_text(encoding="utf-8").partition("\n")
        parts += [head, f"```text\n{output.strip()}\n```"]
    else:
        parts += ["Its output is not kept here; run the file."]
    return "\n\n".join([*parts, "## The file", f"```python\n{source.rstrip()}\n```"]) + "\n"


def _sentence(text: str) -> str:
    return text.strip()[0].upper() + text.strip()[1:]


def reference() -> dict[str, str]:
    """A page for each command, as its --help says it, and one for the functions, as the stub has them."""
    from assent.cli import main
    from assent.cli.entry import COMMANDS, DATA_COMMANDS

    found = {}
    for words in [(name,) for name, *_ in COMMANDS] + [("data", name) for name, *_ in DATA_COMMANDS]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            main([*words, "--help"])
        name = "-".join(words)
        found[f"reference/{name}.md"] = f"# assent {' '.join(words)}\n\n```text\n{said.getvalue().strip()}\n```\n"
    stub = (ROOT / "src/assent/__init__.pyi").read_text(encoding="utf-8")
    found["reference/python.md"] = "# Python functions\n\n" + "\n".join(
        f"## {part.split('(')[0]}\n\n```python\ndef {part.rstrip()}\n```\n" for part in stub.split("\ndef ")[1:]
    )
    return found


def nav(out: Path) -> list[dict[str, list[str]]]:
    left = sorted(page.relative_to(out).as_posix() for page in out.rglob("*.md"))
    chapters = []
    for chapter, wanted in CHAPTERS.items():
        pattern = wanted if isinstance(wanted, str) else None
        taken = [p for p in left if Path(p).match(pattern)] if pattern else [p for p in wanted if p in left]
        if pattern == "*":
            taken = left
        taken.sort(key=lambda name: (not name.endswith(FIRST), 0 if pattern else wanted.index(name), name))
        left = [name for name in left if name not in taken]
        if taken:
            chapters.append({chapter: taken})
    return chapters


def write(out: Path) -> None:
    """All pages, into a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    places = pages()
    for source, place in places.items():
        file = ROOT / source
        text = case_page(file) if file.suffix == ".py" else led(file.read_text(encoding="utf-8"), source, places, out)
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text(text, encoding="utf-8")
    for place, text in reference().items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text(text, encoding="utf-8")


def build(folder: Path) -> Path:
    """The site in `folder`/site. A warning of mkdocs (a link or an anchor that leads nowhere) is an error."""
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config

    pages_at, settings = folder / "pages", folder / "mkdocs.yml"
    write(pages_at)
    chapters = nav(pages_at)
    for page in chapters[-1]["Develop"]:
        (pages_at / page).write_text(LAST_FOUND + (pages_at / page).read_text(encoding="utf-8"), encoding="utf-8")
    settings.write_text(
        yaml.safe_dump({"docs_dir": str(pages_at), "site_dir": str(folder / "site"), "nav": chapters}, sort_keys=False)
        + (ROOT / "mkdocs.yml").read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    config = load_config(str(settings), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    mkdocs_build(config)
    shutil.copyfile(ROOT / "docs/site/404.html", folder / "site/404.html")  # the theme's needs files by absolute paths
    ask_no_other_server(folder / "site")
    return folder / "site"


def ask_no_other_server(site: Path) -> None:
    """The search of pages opened from disk needs a script that the theme takes from a server: here is its copy."""
    place = "assets/javascripts/iframe-worker.js"
    shutil.copyfile(ROOT / "docs/site/iframe-worker.js", site / place)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(SHIM, os.path.relpath(site / place, page.parent)), encoding="utf-8")


if __name__ == "__main__":
    print(f"{build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / 'build')}/index.html")
