"""The site is built from the repository's pages; every link leads to a file of it, and it asks no other server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from assent.cli.entry import COMMANDS, DATA_COMMANDS
from tests.support.chromium import PROGRAM, Chromium
from tests.support.docs import ROOT
from tests.support.scripts import load_script

pytest.importorskip("mkdocs")
make_site = load_script(ROOT / "docs" / "make_site.py")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site.build(tmp_path_factory.mktemp("site"))


def test_every_link_of_the_site_leads_to_a_file_and_a_place_in_it(site: Path) -> None:
    seen = 0
    for page in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"]+)"', page.read_text(encoding="utf-8")):
            if re.match(r"https?:|mailto:|data:|javascript:", link) or link == "/":  # the page of a wrong address
                continue
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), f"{page.relative_to(site)}: {link}"
            if anchor and target.suffix == ".html":
                assert f'id="{anchor}"' in target.read_text(encoding="utf-8"), f"{page.relative_to(site)}: {link}"
            seen += 1
    assert seen > 1000


def test_no_page_loads_anything_from_another_server(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//', text), page
        assert not re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*href="(?:https?:)?//', text), page


def test_every_command_every_case_and_every_page_of_docs_has_a_page(site: Path) -> None:
    commands = [name for name, *_ in COMMANDS] + [f"data-{name}" for name, *_ in DATA_COMMANDS]
    assert all((site / "reference" / f"{name}.html").is_file() for name in commands)
    assert "--beta" in (site / "reference/dpo.html").read_text(encoding="utf-8")
    assert "def dpo" in re.sub("<[^>]+>", "", (site / "reference/python.html").read_text(encoding="utf-8"))
    assert all((site / "cases" / f"{case.stem}.html").is_file() for case in make_site.cases())
    places = make_site.pages()
    assert all((site / places[f"docs/{page.name}"]).with_suffix(".html").is_file() for page in ROOT.glob("docs/*.md"))


def test_a_search_finds_pages_for_users_before_those_for_developers(site: Path) -> None:
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    boosts = {entry["location"].partition("#")[0]: entry.get("boost", 1) for entry in index["docs"]}
    assert boosts["decisions.html"] == boosts["benchmarks/RESULTS.html"] == 0.001
    assert boosts["label.html"] == boosts["reference/dpo.html"] == 1


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"gone\.md leads to no page"):
        make_site.led("[x](gone.md)", "docs/data.md", make_site.pages(), tmp_path)


def test_a_case_shows_its_answer_its_output_and_its_file(site: Path) -> None:
    page = re.sub("<[^>]+>", "", (site / "cases/03_probability_from_ratios.html").read_text(encoding="utf-8"))
    assert "0.2 and 0.8 with β = 2 give 0.2315" in page
    assert "prefers the rejected" in page
    assert "def main()" in page


WIDE = "[...document.querySelectorAll('article')].filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"


@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed (Debian's package: chromium)")
def test_pages_fit_a_phone_and_a_desk_and_ask_no_other_server(site: Path, tmp_path: Path) -> None:
    names = ("index", "guide", "monitor", "concepts/4-dpo", "cases/index", "cases/27_drift_after_deployment")
    with Chromium(tmp_path) as browser:
        for name in (*names, "reference/dpo"):
            for width in (400, 1400):
                browser.open(site / f"{name}.html", width=width)
                assert browser.value("document.querySelectorAll('article h1').length") == 1, name
                assert browser.said() == [], name
                assert all(asked.startswith((site.as_uri(), "data:")) for asked in browser.requested()), name
                assert browser.value("document.documentElement.scrollWidth") == width, name
                assert browser.value(WIDE) == 0, name
