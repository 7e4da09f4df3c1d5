"""Files of the sandbox for the cases about choosing: its writers' answers, judged by raters. No model is loaded."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import assent
from assent.data.loading import write_groups
from assent.sandbox.base_model import base_folder
from assent.sandbox.documents import demonstrations
from assent.sandbox.labellers import sample_and_label
from assent.sandbox.settings import LabelSettings, Rater
from assent.sandbox.world import World
from assent.types import PromptGroup

LAYOUTS = {"pairs": "comparisons", "rankings": "rankings", "ratings": "ratings", "thumbs": "thumbs"}
AGREEING = tuple(Rater(name=f"careful {n}", temperature=0.03) for n in range(3))
DISAGREEING = tuple(Rater(name=f"hurried {n}", temperature=0.3, flip=0.18) for n in range(5))
"""Raters who contradict each other in about a third of the comparisons."""


def labels(path: Path, number: int, *, world: World | None = None, **settings: Any) -> str:
    """A file of labels. `settings` are those of LabelSettings."""
    world = world or World(0)
    chosen = LabelSettings(**{"raters": AGREEING, "source": "foreign", "number": number, **settings})
    return rows(path, sample_and_label(world, chosen, seed=0, sampler=None).groups, LAYOUTS[chosen.labels])


def written(path: Path, number: int) -> str:
    """A file of demonstrations."""
    return rows(path, demonstrations(World(0), number, 0), "demonstrations")


def prompts(path: Path, number: int) -> str:
    return rows(path, World(0).prompts("rl", number, 0), "prompts")


def rows(path: Path, groups: Sequence[PromptGroup], layout: str) -> str:
    write_groups(path, groups, layout)
    return str(path)


def planned(*data: str, **options: Any) -> dict[str, Any]:
    """The plan for the sandbox's base model."""
    return assent.plan(model=str(base_folder(0)), data=data, **options)


def show(title: str, plan: dict[str, Any], *, alternatives: bool = False) -> None:
    """Prints the choice with its reasons."""
    choice = plan["choice"]
    first = "" if choice["first"] == "none" else f"SFT on the {choice['first']}, then "
    print(f"\n{title}: {first}{choice['title']}")
    for reason in choice["reasons"]:
        print(_indented(f"because {reason['text']}"))
    if alternatives:
        for one in choice["alternatives"]:
            gives_up = f"gives up {one['gives_up']}"
            print(_indented(f"{one['method']}: {gives_up if one['excluded'] is None else one['excluded']}"))
        print(_indented("changes to " + "; or to ".join(choice["changes"])))


def _indented(text: str) -> str:
    return textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
