"""What `write_groups` writes, `load_groups` reads back: for every layout, any text, any column."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assent.data.formats import LAYOUTS
from assent.data.loading import load_groups, write_groups
from assent.types import Message, Preference, PromptGroup

SETTINGS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

raw = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(lambda text: text.strip())
number = st.floats(allow_nan=False, allow_infinity=False)
negative = st.floats(max_value=0, allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | number | raw,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(raw, inner, max_size=2),
    max_leaves=4,
)


def message(*roles):
    extra = st.dictionaries(st.sampled_from(["name", "tool_calls"]), json_values, max_size=1)
    return st.builds(Message, st.sampled_from(roles), raw, extra)


conversations = st.lists(message("user", "tool", "system", "assistant"), min_size=1, max_size=3).map(tuple)
openings = st.lists(message("user", "system", "tool"), min_size=1, max_size=3).map(tuple)
replies = st.tuples(message("assistant"), st.lists(message("user", "assistant", "tool"), max_size=2)).map(
    lambda parts: (parts[0], *parts[1])
)


@st.composite
def shared(draw, prompt):
    """The fields that every layout may have."""
    fields = {"columns": draw(st.dictionaries(st.sampled_from(["topic", "generator", "id"]), json_values, max_size=2))}
    if not isinstance(prompt, str):
        fields["tools"] = draw(st.none() | st.just(({"type": "function", "function": {"name": "f", "default": None}},)))
        fields["chat_template_kwargs"] = draw(st.just({}) | st.just({"enable_thinking": False}))
    return fields


def known(draw, **fields):
    weight = draw(st.sampled_from([0.0, 1.0]) | st.floats(1e-9, 1e9))
    annotator = draw(st.none() | raw)
    if not fields and weight == 1.0 and annotator is None:
        return None
    return Preference(**fields, weight=weight, annotator=annotator)


@st.composite
def groups_of(draw, name):
    conversational = name in ("messages", "sharegpt", "sharegpt_comparisons") or draw(st.booleans())
    prompt = draw((openings if name in ("messages", "sharegpt") else conversations) if conversational else raw)
    reply = replies if conversational else raw
    if name == "prompts":
        return PromptGroup(prompt=prompt, preference=known(draw), **draw(shared(prompt)))
    if name == "stepwise":
        steps = tuple(draw(st.lists(raw, min_size=1, max_size=3)))
        labels = draw(st.lists(number | st.sampled_from([0.0, 1.0]), min_size=len(steps), max_size=len(steps)))
        answer = "\n".join(steps)
        return PromptGroup(
            prompt=prompt,
            completions=((Message("assistant", answer),) if conversational else answer,),
            preference=known(draw, step_labels=(tuple(labels),)),
            steps=(steps,),
            **draw(shared(prompt)),
        )
    if "comparisons" in name:
        return draw(comparisons(name, prompt, reply))
    many = name in ("rankings", "scores")
    completions = tuple(draw(st.lists(reply, min_size=1, max_size=4 if many else 1)))
    K = len(completions)
    fields = {
        "rankings": lambda: {"ranking": (1, *draw(st.lists(st.integers(1, 4), min_size=K - 1, max_size=K - 1)))},
        "scores": lambda: {"scores": tuple(draw(st.lists(number, min_size=K, max_size=K)))},
        "ratings": lambda: {"scores": (draw(number),)},
        "thumbs": lambda: {"thumbs": (draw(st.booleans()),)},
    }.get(name, dict)()
    logps = None
    if name not in ("messages", "sharegpt"):
        logps = draw(st.none() | st.lists(negative, min_size=K, max_size=K).map(tuple))
    return PromptGroup(
        prompt=prompt, completions=completions, preference=known(draw, **fields), logps=logps, **draw(shared(prompt))
    )


@st.composite
def comparisons(draw, name, prompt, reply):
    chosen, rejected = draw(st.lists(reply, min_size=2, max_size=2, unique_by=repr))
    if name == "implicit_comparisons":  # what stands in both beginnings is prompt, so they have to differ at once
        if isinstance(prompt, str):
            prompt, chosen, rejected = f"\n\nHuman: {prompt}\n\nAssistant:", f" {chosen}", f" {rejected}"
        else:
            chosen = (dataclasses.replace(chosen[0], content="A" + chosen[0].content), *chosen[1:])
            rejected = (dataclasses.replace(rejected[0], content="B" + rejected[0].content), *rejected[1:])
    return PromptGroup(
        prompt=prompt,
        completions=(chosen, rejected),
        preference=known(
            draw,
            ranking=(1, 2),
            margin=draw(st.none() | number),
            chosen_probability=draw(st.none() | st.floats(0, 1)),
        ),
        logps=draw(st.none() | st.tuples(negative, negative)),
        **draw(shared(prompt)),
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_written_is_read_back(tmp_path, name):
    path = tmp_path / "x.jsonl.gz"

    @SETTINGS
    @given(st.lists(groups_of(name), min_size=1, max_size=3))
    def check(groups):
        write_groups(path, groups, name)
        dataset = load_groups(path, layout=name)
        assert [dataclasses.replace(group, source="") for group in dataset] == groups
        assert load_groups(path).layout == name, "the layout is found from the columns alone"

    check()
