"""What is compared, day by day, and which cause each difference speaks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["table", "words", "rated words", "classifier", "slope", "gap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One figure that may move.

    name     also the name of its first table
    title    for people
    rule     the rule of the doctor that reads it
    kind     table: shares at cuts. words: the share of prompts that have a word. rated words: how often answers with a
             word are liked. classifier: can a classifier tell prompts from the baseline's? slope: does a better score
             still make feedback as likely? gap: do ratings differ from those of the holdout?
    tables   all of them must have moved: the p-value is the largest
    one_way  whether only a fall counts, of the share of the last category
    """

    name: str
    title: str
    rule: str
    kind: Kind = "table"
    tables: tuple[str, ...] = ()
    ordered: bool = False
    one_way: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        return self.tables or (self.name,)


SIGNALS: tuple[Signal, ...] = (
    Signal(name="prompt/length", title="words of a prompt", rule="prompts_moved", ordered=True),
    Signal(name="prompt/slice", title="slices", rule="prompts_moved"),
    Signal(name="prompt/words", title="words in prompts", rule="prompts_moved", kind="words"),
    Signal(name="prompt/classifier", title="prompts told apart", rule="prompts_moved", kind="classifier",
           tables=("prompt/words",)),
    Signal(name="completion/length", title="words of an answer", rule="behaviour_moved", ordered=True,
           tables=("completion/length", "completion/length/leaves")),
    Signal(name="completion/refusal", title="refusals", rule="behaviour_moved",
           tables=("completion/refusal", "completion/refusal/leaves")),
    Signal(name="completion/format", title="form of answers", rule="behaviour_moved",
           tables=("completion/format", "completion/format/leaves")),
    Signal(name="completion/ended", title="answers that end by themselves", rule="behaviour_moved",
           tables=("completion/ended", "completion/ended/leaves")),
    Signal(name="completion/score", title="score of the reward model", rule="behaviour_moved", ordered=True,
           tables=("completion/score", "completion/score/leaves")),
    Signal(name="rating/level", title="liked at equal answers", rule="taste_moved",
           tables=("rating/level", "rating/level/crossed")),
    Signal(name="rating/words", title="words of liked answers", rule="taste_moved", kind="rated words",
           tables=("rating/words", "rating/words/crossed")),
    Signal(name="reward_model/agrees", title="reward model agrees with people", rule="reward_model_aged", one_way=True),
    Signal(name="reward_model/beyond", title="reward model against the text alone", rule="reward_model_aged",
           one_way=True),
    Signal(name="judge/level", title="judge's verdict at equal answers", rule="judge_changed",
           tables=("judge/level", "judge/level/crossed")),
    Signal(name="judge/anchors", title="judge repeats itself on anchors", rule="judge_changed", one_way=True),
    Signal(name="rating/asked", title="who leaves feedback", rule="feedback_selected", kind="slope",
           tables=("rating/asked", "rating/asked/score")),
    Signal(name="rating/holdout", title="ratings beside the holdout", rule="feedback_selected", kind="gap"),
    Signal(name="serving/logprob", title="log-probability beyond the text", rule="serving_differs", ordered=True,
           tables=("serving/logprob", "serving/logprob/crossed")),
    Signal(name="serving/model", title="name of the model", rule="serving_differs"),
)  # fmt: skip


NATS = 0.05
"""Mean absolute difference per token, served and computed, that low precision does not explain."""


def agrees(policy: Mapping[str, float] | None) -> bool:
    """Whether what --policy found shows the server's log-probabilities to be the trainer's."""
    return policy is not None and policy["nats_per_token"] <= NATS


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A signal on a day: the window that says most.

    window      days; first, last: of them, as days since 1970
    p_value     beside `level`, what this signal, window and day may spend of the allowed error
    difference  the largest difference of shares (classifier: area under the curve − ½; slope: of log-odds a step)
    raw         the difference without strata; None where there are none
    share       the window's share there; None where it is no share
    smallest    the smallest difference that was likely to be found (`statistics.homogeneity.POWER`), in the longest
                window
    psi         population stability index
    cut         what the share is of: `at most 14`, a slice, a form
    moved       names that moved (words, slices): (name, share before, share now), the surest first
    """

    signal: Signal
    window: int
    first: int
    last: int
    rows: float
    base_rows: float
    p_value: float
    level: float
    difference: float
    share: float | None
    smallest: float
    psi: float | None
    cut: str
    moved: tuple[tuple[str, float, float], ...] = ()
    raw: float | None = None

    @property
    def found(self) -> bool:
        return self.p_value <= self.level

    @property
    def before(self) -> float | None:
        return None if self.share is None else self.share - self.difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What the rules of logs read: the signals on the newest day that could be tested, by name.

    day         days since 1970; days_tested: how many have been, this one included
    not_logged  names of signals that the logs or the baseline do not have
    policy      what --policy found: figures by name, or None
    """

    day: int
    days_tested: int
    signals: Mapping[str, Tested]
    not_logged: tuple[str, ...] = ()
    policy: Mapping[str, float] | None = None

    def of_rule(self, rule: str) -> list[Tested]:
        return [tested for tested in self.signals.values() if tested.signal.rule == rule]

    def has_moved(self, rule: str) -> bool:
        """Whether any signal of the rule was found."""
        return any(one.found for one in self.of_rule(rule))

    def found(self, name: str) -> bool:
        return name in self.signals and self.signals[name].found
