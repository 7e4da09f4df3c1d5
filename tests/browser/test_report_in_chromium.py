"""The report as a browser shows it: quiet, alone, drawn in full, readable on a phone, in the dark and on paper."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from assent.reporting import write_report
from tests.support.chromium import PROGRAM, Chromium
from tests.support.reporting import HOSTILE, findings, frontier, write_pipeline, write_run

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed (Debian's package: chromium)")

NOT_DRAWN = """
[...document.querySelectorAll('svg')].filter(svg => {
  if (innerWidth <= 760 && svg.closest('.lineage')) return false;  // arcs, for which a phone has no room
  const box = svg.getBoundingClientRect();
  const shapes = [...svg.querySelectorAll('path, circle, use')].filter(s => !s.closest('defs'));
  const drawn = shapes.filter(s => { const b = s.getBoundingClientRect(); return b.width + b.height > 0; });
  return !(box.width > 30 && box.height > 30 && drawn.length && svg.textContent !== null);
}).map(svg => svg.getAttribute('aria-label') || svg.outerHTML.slice(0, 80))
"""
OUTSIDE = """
[...document.querySelectorAll('body *')].filter(e => {
  if (e.closest('.scroll') || e.closest('svg') || e.closest('details:not([open])')) return false;
  const b = e.getBoundingClientRect();
  return b.width && (b.right > innerWidth + 1 || b.left < -1);
}).map(e => e.tagName + '.' + e.className + ': ' + e.textContent.slice(0, 60))
"""


CUT = """
[...document.querySelectorAll('.lineage li, .tile, .finding')].filter(e =>
  e.scrollHeight > e.clientHeight + 1 || [...e.children].some(c =>
    c.getBoundingClientRect().bottom > e.getBoundingClientRect().bottom + 1)
).map(e => e.textContent.slice(0, 60))
"""
"""What does not fit into its box, whether or not the box hides it."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose samples are hostile."""
    folder = write_pipeline(tmp_path_factory.mktemp("out") / "demo", steps=60, hostile=True)
    (folder / "frontier.json").write_text(json.dumps(frontier()))
    (folder / "ppo" / "findings.json").write_text(json.dumps(findings(hostile=True)))
    return write_report(folder)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_is_quiet_alone_and_drawn(browser: Chromium, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width=width, scheme=scheme)
    assert browser.said() == []
    assert browser.requested() == [page.as_uri()]
    assert browser.value("document.querySelectorAll('svg.chart').length") > 15
    assert browser.value(NOT_DRAWN) == []
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value(OUTSIDE) == []
    assert browser.value(CUT) == []


def test_a_completion_of_html_and_script_is_text(browser: Chromium, page: Path) -> None:
    browser.open(page, width=1400)
    assert browser.value("document.title") == "demo: alignment report"
    assert browser.value("document.querySelectorAll('script, img, iframe').length") == 0
    shown = (
        f"[...document.querySelectorAll('#samples .text')].filter(e => e.innerText === {json.dumps(HOSTILE)}).length"
    )
    assert browser.value(shown) >= 12


def test_a_script_would_be_heard_and_a_picture_from_outside_seen(browser: Chromium, tmp_path: Path) -> None:
    """The controls: what the test above listens with does hear."""
    loud = tmp_path / "loud.html"
    loud.write_text("<svg></svg><script>console.error('here'); throw 1</script><img src='missing.png'>")
    browser.open(loud, width=400)
    assert len(browser.said()) >= 2
    assert any(address.endswith("missing.png") for address in browser.requested())
    assert len(browser.value(NOT_DRAWN)) == 1


def test_light_and_dark_are_two_pages(browser: Chromium, page: Path) -> None:
    def colours(scheme: str) -> list[float]:
        browser.open(page, width=1400, scheme=scheme)
        style = "getComputedStyle(document.body)"
        found = browser.value(f"[{style}.backgroundColor, {style}.color]")
        return [sum(map(int, rgb[4:-1].split(","))) / 3 for rgb in found]

    light, dark = colours("light"), colours("dark")
    assert light[0] - light[1] > 150
    assert dark[1] - dark[0] > 150


def test_the_page_of_a_run_prints(browser: Chromium, tmp_path: Path) -> None:
    write_run(tmp_path / "run", command="ppo", config={"model": "m"}, steps=60, seed=0)
    browser.open(write_report(tmp_path / "run"), width=1400, scheme="dark")
    paper = browser.paper()
    assert paper.startswith(b"%PDF")
    assert browser.said() == []


@pytest.mark.parametrize("width", [400, 1400])
def test_the_held_out_figure_of_a_run_leads_at_every_width(browser: Chromium, tmp_path: Path, width: int) -> None:
    write_run(tmp_path / "run", command="dpo", config={"model": "m"}, steps=60, seed=0, held_out=True)
    browser.open(write_report(tmp_path / "run"), width=width)
    assert browser.said() == []
    assert browser.value("document.querySelector('h1').innerText").startswith("run ranks 66% of held-out pairs")
    assert browser.value("document.querySelector('.tile h2').innerText").lower().startswith("accuracy (held out)")
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value(OUTSIDE) == []
