"""Links lead somewhere, to a file and to a heading in it, and the indexes list everything that they are indexes of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.docs import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md"), *ROOT.glob("benchmarks/*.md")]
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """Without fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names of the page's headings, as GitHub makes them: of two that are alike, the second ends in -1."""
    names: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        names.append(f"{name}-{names.count(name)}" if name in names else name)
    return set(names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"no file {link}"
        assert not anchor or anchor in anchors(target), f"no heading {link}"


def test_the_index_lists_every_page_of_docs() -> None:
    listed = {link.partition("#")[0] for link in LINK.findall(prose(ROOT / "docs/README.md"))}
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")}
    assert pages - {"README.md"} <= listed


def test_the_readmes_last_part_lists_every_page_of_docs() -> None:
    listed = set(LINK.findall(prose(ROOT / "README.md").partition("\n## Read on\n")[2]))
    assert {page.relative_to(ROOT).as_posix() for page in ROOT.glob("docs/**/*.md")} <= listed


def test_the_benchmarks_page_lists_every_script() -> None:
    listed = set(LINK.findall(prose(ROOT / "benchmarks/README.md")))
    assert {path.name for kind in ("py", "yaml") for path in ROOT.glob(f"benchmarks/*.{kind}")} <= listed


def test_headings_are_named_as_github_names_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Law 5: The step-0 gate\n## `Learner.update` takes groups\n## A\n```sh\n# no heading\n```\n## A\n"
    )
    assert anchors(page) == {"law-5-the-step-0-gate", "learnerupdate-takes-groups", "a", "a-1"}
