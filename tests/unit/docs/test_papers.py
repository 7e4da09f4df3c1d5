"""docs/papers.md says of every declared loss what its declaration says; `make papers` writes it anew."""

from __future__ import annotations

from types import ModuleType

import pytest

from assent.config.losses import LossDeclaration
from tests.support.docs import ROOT
from tests.support.scripts import load_script

PAGE = ROOT / "docs" / "papers.md"


@pytest.fixture(scope="module")
def make_papers() -> ModuleType:
    return load_script(ROOT / "docs" / "make_papers.py")


def test_the_page_of_papers_is_the_declarations(make_papers: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == make_papers.with_losses(page), "write it anew: make papers (python docs/make_papers.py)"


def test_the_page_holds_every_declared_loss_and_hyperparameter(make_papers: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    declared = [loss for registry in make_papers.registries().values() for loss in registry.values()]
    assert declared
    for loss in declared:
        assert isinstance(loss, LossDeclaration)
        said = page.split(f"\n**{loss.name}** ")[1].split("\n**")[0]
        assert loss.equation in said.replace("\\|", "|")
        assert loss.paper in said
        for name, known in loss.hyperparameters.items():
            assert f"| `{name}` | " in said
            assert f" | {known.range} | " in said
