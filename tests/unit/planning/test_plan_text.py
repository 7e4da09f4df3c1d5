"""What a plan prints: every name is one that the user can give or look up."""

from __future__ import annotations

from assent.planning.choice import choose
from assent.planning.facts import Facts
from assent.planning.plan_text import lines_of_alternatives, lines_of_facts
from assent.planning.rules import Situation


def test_a_method_that_no_command_is_named_after_is_written_out() -> None:
    choice = choose(Situation(Facts(prompts=40, pairs=500, largest_group=2)))
    text = " ".join(" ".join(lines_of_alternatives(choice)).split())
    assert "collect (collecting data first): time, as nothing is trained before people or a judge have labelled" in text
    assert "pl-dpo (DPO with Plackett-Luce on whole rankings): not possible" in text
    assert " dpo: exploration" in text


def test_what_the_model_is_comes_with_how_it_is_known() -> None:
    """A model of random weights may have a chat template."""
    lines = lines_of_facts(Facts(pairs=500, start="instruct"))
    assert "  start             instruct (--start; auto goes by the chat template alone)" in lines
    assert max(map(len, lines)) <= 80
