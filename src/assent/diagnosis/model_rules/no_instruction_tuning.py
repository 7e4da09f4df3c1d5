"""The policy goes on with the text instead of answering."""

from __future__ import annotations

from assent.diagnosis.case import Case
from assent.diagnosis.finding import Evidence, Finding
from assent.diagnosis.probes import Answer, Behaviour, behaviour_in, quoted
from assent.diagnosis.rows import percent
from assent.diagnosis.rule import Rule
from assent.statistics.small import fmean

SOME, SELDOM, UNLIKELY = 0.25, 0.5, -4.0


def check(case: Case) -> Finding | None:
    found = behaviour_in(case)
    end = fmean(found.end_logprobs) if found.end_logprobs else None
    goes_on = found.continues.low > SOME
    never_ends = found.ends.high < SELDOM and end is not None and end < UNLIKELY
    if not goes_on and not never_ends:
        return None
    evidence = [
        Evidence(metric="answers that go on with the prompt or take the user's turn", value=found.continues.value,
                 expected="about 0"),
        Evidence(metric="answers that end", value=found.ends.value, expected="about 1"),
        *([] if end is None else [
            Evidence(metric="log P(end) after a whole answer", value=end, expected="about 0")
        ]),
        Evidence(metric="chat template", value=float(found.has_template), expected="1"),
    ]  # fmt: skip
    example = next((answer.text for answer in found.answers if answer.text.strip()), "")
    return Finding(
        severity="fault",
        confidence="likely",
        verdict=f"it continues the text instead of answering ({percent(found.continues)} of its answers go on with the "
        f"prompt, {percent(found.ends)} end; one begins {quoted(example)}): instruction tuning is missing",
        evidence=tuple(evidence),
        cause="it was trained to continue documents, not to answer" if found.has_template else
        "it was trained to continue documents, and its tokenizer has no chat template",
        next_action="train it on demonstrations first (assent sft): preferences choose between answers, and this model "
        "gives none. If it was instruction-tuned, it is asked with another template than it was trained with",
    )  # fmt: skip


RULE = Rule(
    name="no_instruction_tuning",
    title="continues the text instead of answering",
    metrics=(),
    looks_at="models",
    check=check,
    causes=("a pretrained model without instruction tuning", "another chat template than in training"),
    source="Ouyang et al., arXiv:2203.02155, figure 2",
)


def _asked(*, text: str, ended: bool, end: float) -> Case:
    answers = [Answer(prompt=f"Karl: What is {n}?", text=text, ended=ended) for n in range(12)]
    return Case(models=Behaviour(has_template=True, answers=answers, end_logprobs=[end] * 8), source="model")


FIRES = _asked(text="? Karl: And what is that?", ended=True, end=-3.0)
QUIET = _asked(text="It is a number.", ended=True, end=-0.2)
