"""The rules of an update: each has facts on which it decides, names facts that exist, and a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest

from assent.diagnosis.drift.served import Served
from assent.diagnosis.log_rules import log_rules
from assent.planning.logged import Logged
from assent.planning.rules import QUOTED, rules
from assent.planning.update import (
    LEAST_PAIRS,
    MOVES,
    LogFacts,
    facts_of,
    holds,
    moves_of,
    since_of,
    verdicts_of,
    way_of,
)

GOOD = LogFacts(rows=5000, rated=2000, since="all", pairs=800, up=1200, down=800, logged=1.0, read_back=1.0,
                policies=1, propensity=0.0, effective=None, rated_propensity=0.0, rated_effective=None,
                trainer="compared", prompts="same", taste="same", behaviour="same", feedback="same", serving="same",
                reward_model="same", judge="same")  # fmt: skip
NO_PAIRS = {"pairs": 0}
CASES: list[tuple[dict[str, Any], dict[str, str]]] = [
    # what differs from GOOD; the verdicts that follow, and what is done
    ({}, {"dpo": "sound", "reference": "sound", "weighting": "not possible", "samples": "not needed",
          "ppo": "not sound", "reward": "sound", "way": "pairs logged"}),
    ({"rated": 0, "pairs": 0, "up": 0, "down": 0},
     {"dpo": "not possible", "thumbs": "not possible", "samples": "needed", "way": "prompts"}),
    ({"rated": 0, "pairs": 0, "prompts": "moved"}, {"samples": "needed", "way": "prompts"}),
    ({"prompts": "moved"}, {"samples": "not needed", "way": "pairs logged"}),
    ({"read_back": 0.99}, {"reference": "not sound", "way": "pairs"}),
    ({"read_back": None}, {"reference": "sound", "way": "pairs logged"}),
    (NO_PAIRS, {"dpo": "not possible", "thumbs": "sound", "way": "thumbs"}),
    ({"pairs": LEAST_PAIRS - 1}, {"dpo": "not possible", "way": "thumbs"}),
    ({"pairs": LEAST_PAIRS}, {"dpo": "sound", "way": "pairs logged"}),
    ({**NO_PAIRS, "down": 0}, {"thumbs": "not possible", "way": "prompts"}),
    ({**NO_PAIRS, "behaviour": "moved"}, {"thumbs": "not sound", "way": "prompts"}),
    ({**NO_PAIRS, "feedback": "moved"}, {"thumbs": "not sound", "way": "prompts"}),
    ({**NO_PAIRS, "feedback": "moved", "rated_propensity": 1.0, "rated_effective": 0.4},
     {"thumbs": "sound", "way": "thumbs weighted"}),
    ({**NO_PAIRS, "rated_propensity": 1.0, "rated_effective": 0.01},
     {"thumbs": "not sound", "weighting": "not sound", "way": "prompts"}),
    ({**NO_PAIRS, "taste": "moved", "since": "unknown"}, {"thumbs": "not sound", "way": "prompts"}),
    ({"behaviour": "moved"}, {"dpo": "not sound", "way": "prompts"}),
    ({"taste": "moved", "since": "unknown"}, {"dpo": "not sound", "reward": "not sound", "way": "prompts"}),
    ({"taste": "moved", "since": "2026-11-30"}, {"dpo": "sound", "reward": "not sound", "way": "pairs logged"}),
    ({"feedback": "moved", "propensity": 0.9}, {"dpo": "not sound", "weighting": "not possible", "way": "prompts"}),
    ({"feedback": "moved", "propensity": 1.0, "effective": 0.5}, {"dpo": "sound", "weighting": "sound",
                                                                  "way": "pairs logged weighted"}),
    ({"propensity": 1.0, "effective": 0.05, "rated_propensity": 1.0, "rated_effective": 0.05},
     {"dpo": "not sound", "thumbs": "not sound", "weighting": "not sound", "way": "prompts"}),
    ({"propensity": 1.0, "effective": 0.05, "rated_propensity": 1.0, "rated_effective": 0.5},  # pairs weigh p·q
     {"dpo": "not sound", "thumbs": "sound", "weighting": "sound", "way": "thumbs weighted"}),
    ({"propensity": 1.0, "effective": 0.5}, {"weighting": "sound", "way": "pairs logged weighted"}),
    ({"propensity": 1.0, "effective": 0.5, "feedback": "moved", "behaviour": "moved"},
     {"thumbs": "not sound", "weighting": "not possible", "way": "prompts"}),
    ({"logged": 0.5}, {"reference": "not possible", "ppo": "not sound", "way": "pairs"}),
    ({"serving": "moved"}, {"reference": "not sound", "way": "pairs"}),
    ({"serving": "unknown"}, {"reference": "not shown", "way": "pairs"}),
    ({"trainer": "not compared"}, {"reference": "not shown", "way": "pairs"}),
    ({"policies": 2}, {"reference": "not sound", "way": "pairs"}),
    ({"reward_model": "moved"}, {"reward": "not sound", "way": "pairs logged"}),
    ({"reward_model": "unknown"}, {"reward": "not shown", "way": "pairs logged"}),
]  # fmt: skip


def every_rule() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, question in rules()["update"]["questions"].items():
        yield from ((name, rule) for rule in question["rules"])


@pytest.mark.parametrize(("changes", "expected"), CASES)
def test_the_facts_decide(changes: dict[str, Any], expected: dict[str, str]) -> None:
    verdicts = verdicts_of(replace(GOOD, **changes))
    said = {one.question: one.verdict for one in verdicts}
    way = way_of(verdicts)
    done = " ".join([way.kind, *(name for name in ("logged", "weighted") if getattr(way, name))])
    assert {**said, "way": done} | expected == {**said, "way": done}


def test_every_rule_decides_in_one_of_the_cases() -> None:
    used = set()
    for changes, _ in CASES:
        facts = replace(GOOD, **changes)
        known = {**facts.as_dict(), **{one.question: one.verdict for one in verdicts_of(facts)}}
        for name, question in rules()["update"]["questions"].items():
            used.add((name, next(place for place, one in enumerate(question["rules"]) if holds(one["when"], known))))
    places = {(name, place) for name, question in rules()["update"]["questions"].items()
              for place in range(len(question["rules"]))}  # fmt: skip
    assert used == places


def test_rules_name_facts_that_exist_quote_them_and_have_a_source() -> None:
    facts = {field.name for field in fields(LogFacts)}
    questions = list(rules()["update"]["questions"])
    for name, rule in every_rule():
        earlier = set(questions[: questions.index(name)])
        named = {key for one in rule["when"].get("any", []) for key in one} | (set(rule["when"]) - {"any"})
        assert named <= facts | earlier, (name, rule)
        assert QUOTED.findall(rule["reason"]), (name, rule["reason"])
        assert set(QUOTED.findall(rule["reason"])) <= facts
        assert rule["source"]
    assert set(MOVES.values()) == {rule.name for rule in log_rules()}


def test_reasons_quote_the_facts() -> None:
    verdicts = {one.question: one for one in verdicts_of(replace(GOOD, logged=0.5))}
    assert verdicts["dpo"].reason.startswith("800 pairs. ")
    assert "50% of the rated answers" in verdicts["reference"].reason
    assert "50% of them have" in verdicts["ppo"].reason


def test_pairs_and_ratings_have_facts_of_their_own() -> None:
    served = [Served(prompt=f"what is {n // 2}?", completion=f"{n}", label=float(n % 2), logprob_sum=-1.0,
                     propensity=0.5) for n in range(2 * LEAST_PAIRS)]  # fmt: skip
    alone = [replace(one, prompt=f"who is {n}?", propensity=None) for n, one in enumerate(served)]
    moves = moves_of({"moved": None, "causes": [], "open": [], "not_checked": []})

    def found(rated: list[Served]) -> LogFacts:
        return facts_of(Logged(len(rated), rated, {}), moves, since=None, up_above=0.5, is_compared=False)

    both = found([*served, *alone])
    assert (both.pairs, both.propensity, both.rated_propensity) == (LEAST_PAIRS, 1.0, 0.5)
    assert (both.effective, both.rated_effective, both.trainer) == (pytest.approx(1.0), None, "not compared")
    few = found([*served[:20], *alone])
    assert (few.pairs, few.propensity, few.rated_propensity) == (10, 1.0, pytest.approx(20 / 220))
    # a third answer, rated in between, makes two more pairs where they are weighted: its log-probabilities count
    third = replace(served[0], completion="third", label=0.5, logprob_sum=None)
    assert found([*served, third]).logged == pytest.approx(202 / 204)
    assert found([*served, replace(third, propensity=None)]).logged == 1.0


def test_moves_are_those_that_the_monitor_found_and_those_it_could_not_read_are_unknown() -> None:
    found: dict[str, Any] = {
        "moved": True, "causes": ["prompts_moved"], "open": [{"rule": "taste_moved", "since": "2026-11-03"}],
        "not_checked": [{"rule": "judge_changed", "reason": "no verdicts"}],
    }  # fmt: skip
    moves = moves_of(found)
    assert moves == {"prompts": "moved", "taste": "moved", "behaviour": "same", "feedback": "same", "serving": "same",
                     "reward_model": "same", "judge": "unknown"}  # fmt: skip
    assert since_of(found, moves) == "2026-11-03"
    assert since_of({**found, "open": [{"rule": "taste_moved", "since": "call 1"}]}, moves) is None
    nothing = moves_of({"moved": None, "causes": [], "open": [], "not_checked": []})
    assert set(nothing.values()) == {"unknown"}
