"""Two answers side by side and a column that says which is better, as labelling tools export them.

question, answer_a, answer_b, winner        winner: a, answer_a, model_a, b …, or tie
question, answer_1, answer_2, winner        1, answer_1 …, or as above: a is the first answer, b the second
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assent.data import texts
from assent.data.texts import RowError
from assent.data.unread import is_empty

STEMS = ("answer", "response", "completion", "output", "reply")
ENDS = {"a": "b", "1": "2", "0": "1"}
THIRDS = {"a": "c", "1": "3", "0": "2"}
JUDGES = frozenset({"winner", "preferred", "preference", "choice", "better"})
COLUMNS = frozenset({f"{stem}_{end}" for stem in STEMS for pair in ENDS.items() for end in pair} | JUDGES)
TIES = frozenset({"tie", "tied", "draw", "equal", "same", "both", "neither", "both_bad", "tie (bothbad)"})
UNJUDGED = "no judgement of the two answers"


def as_ranking(row: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """The row as `prompt, completions, ranking`, and what to say of it; None where it is no such row.

    Raises RowError where the judgement is missing, or names neither answer, and where an answer is empty.
    """
    pairs = [
        (f"{stem}_{first}", f"{stem}_{second}")
        for stem in STEMS
        for first, second in ENDS.items()
        if {f"{stem}_{first}", f"{stem}_{second}"} <= row.keys() and f"{stem}_{THIRDS[first]}" not in row
    ]
    judges = sorted(JUDGES & row.keys())
    others = ("completion", "completions", "chosen", "rejected")
    if len(pairs) != 1 or len(judges) != 1 or any(not is_empty(row.get(name)) for name in others):
        return None
    if is_empty(prompt := row.get("prompt")):
        return None
    names, judge = pairs[0], judges[0]
    ranking = _ranking(row[judge], judge, names)
    answers = [row[name] for name in names]
    for name, answer in zip(names, answers, strict=True):
        if is_empty(answer):
            raise RowError(
                texts.EMPTY_COMPLETION,
                f"`{name}` is empty",
                got=texts.shorten(answer),
                expected="text with at least one visible character",
                fix="remove the row, or give it an answer",
            )
    if not isinstance(prompt, str):
        answers = [[{"role": "assistant", "content": one}] if isinstance(one, str) else one for one in answers]
    ours = {name: value for name, value in row.items() if name not in (*names, judge, *others)}
    ours |= {"completions": answers, "ranking": ranking}
    return ours, f"{', '.join(names)}, {judge}: read as completions and their ranking"


def _ranking(value: object, judge: str, names: tuple[str, str]) -> list[int]:
    if is_empty(value):
        raise RowError(UNJUDGED, f"`{judge}` is empty", fix="leave such rows out")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as pandas has a column with missing values
    said = "" if isinstance(value, bool) else str(value).strip().lower()
    spoken = said.replace(" ", "_")
    for place, name in enumerate(names):
        stem, _, end = name.rpartition("_")
        if spoken in ("ab"[place], end, name, f"model_{end}", f"{stem}{end}"):
            return [1, 2] if place == 0 else [2, 1]
    if said in TIES or spoken in TIES:
        return [1, 1]
    ends = [name.rpartition("_")[2] for name in names]
    raise RowError(
        f"bad `{judge}`",
        f"`{judge}` names neither answer",
        got=texts.shorten(value),
        expected=", ".join([*ends, *names, "tie"]),
        fix=f"say what the values mean: --columns 'THEIRS={judge}:left=a|right=b|both=tie'; or write one of these",
    )
