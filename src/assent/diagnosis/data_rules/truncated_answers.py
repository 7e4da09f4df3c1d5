"""Answers that stop in the middle of a sentence."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.rows import LEAST, data_of, percent, raised, rows_example, sample_pair, sample_pairs, share
from assent.diagnosis.rule import NotChecked, Rule

LONG = 40
"""Words from which an answer is expected to end as a sentence does. A title or a name does not."""
OFTEN = 0.15


def check(case: Case) -> Finding | None:
    answers = [(prompt, text) for prompt, text in data_of(case).answers if len(text.split()) >= LONG]
    cut, prompts = share((prompt, float(is_cut(text))) for prompt, text in answers)
    if prompts < LEAST:
        raise NotChecked(f"too few answers of {LONG} words: {prompts} of {LEAST}")
    if cut.low <= OFTEN:
        return None
    return Finding(
        severity="fault",
        confidence="likely",
        verdict=f"{percent(cut)} of the long answers to be learnt ({prompts:,} prompts) stop in the "
        f"middle of a sentence",
        evidence=(Evidence(metric="share of cut answers", value=cut.value, expected=f"at most {OFTEN}"),),
        cause="they were sampled or stored with a limit of length",
        next_action="sample them again with a higher limit, or leave them out: the end that is trained after them "
        "teaches the policy to stop anywhere",
        drop=tuple(source for source, text in raised(data_of(case)) if len(text.split()) >= LONG and is_cut(text)),
    )


def is_cut(text: str) -> bool:
    """The last line ends with a letter or a comma, and is long enough to be a sentence. Lists and tables are not."""
    stripped = text.rstrip()
    last = stripped.rsplit("\n", 1)[-1].lstrip()
    return (stripped[-1:].isalpha() or stripped[-1:] in ",;-") and len(last.split()) > 8 and last[:1].isalnum()


RULE = Rule(
    name="truncated_answers",
    title="answers cut in mid-sentence",
    metrics=(),
    looks_at="data",
    check=check,
    causes=("a limit of tokens when they were sampled", "a limit of a column"),
    source="failures P11 and D14, in the data",
)

_WHOLE = "We went along the river and looked at every stone that was there until evening came. " * 4
FIRES = rows_example([*sample_pairs(30), *(sample_pair(n, better=f"Day {n}. {_WHOLE}"[:-20]) for n in range(30, 70))])
QUIET = rows_example(sample_pair(n, better=f"Day {n}. {_WHOLE}") for n in range(70))
