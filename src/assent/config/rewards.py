"""Where a reward comes from: one source, or several with weights. Torch-free.

A source is written as text: a rule's name (length, format, regex, repetition), http(s)://…, `module:function` or
`implicit:POLICY,REFERENCE`. Any other text names a reward model, in a folder or on the hub. A source with options is a
mapping whose `reward` is that text: {reward: length, maximum: 60, weight: 0.1}. The scores of several are added up.
`rewards/loading.py` opens what is declared here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainSerializer, SerializeAsAny, field_validator, model_validator

from assent.config.ensembles import Combination
from assent.config.loading import parse_options, read_value
from assent.config.options import NonNegative, Options, Positive
from assent.errors import ConfigError

FORMS = "a reward model's folder, module:function, a rule, an address, implicit:POLICY,REFERENCE; or {reward: …, …}"
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
TAKEN = frozenset({"chosen", "rejected", "margins", "accuracies"})
"""Metrics `rewards/…` that belong to comparisons. A source cannot have these names."""

Supervision = Literal["outcome", "process"]


class RewardSource(Options):
    """What every source has."""

    kind: ClassVar[str]

    reward: str
    """What scores completions."""
    weight: float = 1.0
    """Factor of its scores in the sum."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")] | None = None
    """Name of its figures: `rewards/NAME`. Default: named after what scores."""

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.weight == 0:
            raise ValueError(f"reward {self.reward} has weight 0, so it would not count: leave it out")
        if self.name in TAKEN:
            raise ValueError(
                f"a reward cannot be called {self.name}, as rewards/{self.name} is taken: choose another name"
            )
        return self

    @property
    def label(self) -> str:
        """The source's name in metrics and files."""
        label = self.name or re.sub(r"[^\w.-]+", "-", self.own_name()).strip("-.") or self.kind
        return f"{self.kind}-{label}" if label in TAKEN else label

    def own_name(self) -> str:
        return self.kind

    @property
    def is_process(self) -> bool:
        """Whether it gives a number for each step."""
        return False

    def leaves(self) -> Iterator[RewardSource]:
        """The source itself, and the members of an ensemble."""
        yield self


class ModelSource(RewardSource):
    """A reward model from `assent reward`, or any sequence classifier with one label; in a folder or on the hub."""

    kind: ClassVar[str] = "model"

    supervision: Supervision = "outcome"
    """process: a process model, which gives each step a number at its last token."""
    combine: str | None = None
    """How to combine several heads or adapters: mean, min, mean-std:K or weights:A,B,…. Default: mean."""

    @field_validator("combine")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            Combination.parse(value)
        return value

    def own_name(self) -> str:
        path = PurePath(self.reward)
        return path.parent.name if path.name == "model" and path.parent.name else path.name

    @property
    def is_process(self) -> bool:
        return self.supervision == "process"


class FunctionSource(RewardSource):
    """A Python function of prompts and completions, sync or async, on Python's path or in the working directory."""

    kind: ClassVar[str] = "function"

    supervision: Supervision = "outcome"
    """process: the function returns a list for each completion, with one number for each step."""

    def own_name(self) -> str:
        return self.reward.rpartition(":")[2]

    @property
    def is_process(self) -> bool:
        return self.supervision == "process"


class LengthSource(RewardSource):
    """0 within the limits. Beyond a limit, minus the distance to it, divided by it."""

    kind: ClassVar[str] = "length"

    minimum: NonNegative | None = None
    """Shortest length without a penalty."""
    maximum: Positive | None = None
    """Longest length without a penalty."""
    unit: Literal["words", "characters"] = "words"
    """Unit of the length."""

    @model_validator(mode="after")
    def _has_limits(self) -> Self:
        if not self.minimum and self.maximum is None:
            raise ValueError("reward length needs a minimum, a maximum, or both: {reward: length, maximum: 60}")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"reward length: minimum {self.minimum} is above maximum {self.maximum}: lower it")
        return self


class FormatSource(RewardSource):
    """1 for a completion that has the form, otherwise 0."""

    kind: ClassVar[str] = "format"

    json_keys: list[str] | None = None
    """The completion must be a JSON object with these keys; others are allowed. An empty list: any JSON."""
    tags: Annotated[list[Annotated[str, Field(pattern=r"^\w+$")]], Field(min_length=1)] | None = None
    """[think, answer]: the completion must be <think>…</think> and <answer>…</answer>, each once, in this order, and
    nothing else."""

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if (self.json_keys is None) == (self.tags is None):
            raise ValueError("reward format needs one form: {reward: format, tags: [think, answer]}, or json_keys")
        return self


class RegexSource(RewardSource):
    """1 if the regular expression matches the completion, otherwise 0."""

    kind: ClassVar[str] = "regex"

    pattern: str
    """Regular expression of Python's `re`. A dot also matches a line break."""
    match: Literal["search", "fullmatch"] = "search"
    """search: the pattern may match anywhere; fullmatch: it must match the whole completion, blanks around it aside."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value, re.DOTALL)
        except re.error as error:
            raise ConfigError(f"not a valid regular expression: {error}", got=value) from None
        return value


class RepetitionSource(RewardSource):
    """Minus the share of a completion's runs of words that it repeats (arXiv:2502.03373, appendix C.2)."""

    kind: ClassVar[str] = "repetition"

    ngram_size: Positive = 3
    """Words in a run."""


class EndpointSource(RewardSource):
    """A server that receives {"prompts": […], "completions": […]} and answers {"scores": […]}, one per completion."""

    kind: ClassVar[str] = "endpoint"

    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = None
    """Environment variable that holds the key. It is sent as `Authorization: Bearer …` and written nowhere."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds that one request may take in all."""
    retries: NonNegative = 4
    """How often to repeat a request when the server is busy or unreachable or its answer breaks off: after 1, 2, 4, …
    seconds."""
    batch_size: Positive = 64
    """Completions in one request."""
    columns: list[str] = Field(default_factory=list)
    """Columns of the prompts' rows to send as well: {"columns": {NAME: […]}}."""

    @field_validator("reward")
    @classmethod
    def _holds_no_key(cls, value: str) -> str:
        parts = urlsplit(value)
        if not parts.hostname:
            raise ConfigError("the address has no server name", got=value, expected="http://HOST[:PORT]/PATH")
        if parts.username is not None or parts.query or parts.fragment:
            raise ConfigError(
                "an address must not hold a user, key or query, as it is written into the run folder",
                got=f"{_keyless(value)} and more",
                fix="put the key into an environment variable: {reward: ADDRESS, api_key_env: NAME}",
            )
        return value

    def own_name(self) -> str:
        return urlsplit(self.reward).hostname or self.kind


class ImplicitSource(RewardSource):
    """beta · log(POLICY / REFERENCE), summed over the completion's tokens (Rafailov et al., arXiv:2305.18290)."""

    kind: ClassVar[str] = "implicit"

    beta: Annotated[float, Field(gt=0)]
    """The beta that POLICY was trained with. The run.json of its run has it."""

    @field_validator("reward")
    @classmethod
    def _two_models(cls, value: str) -> str:
        if value.count(",") != 1 or not all(value.removeprefix("implicit:").split(",")):
            raise ConfigError("an implicit reward names two models", got=value, expected="implicit:POLICY,REFERENCE")
        return value

    @property
    def models(self) -> tuple[str, str]:
        """Policy and reference."""
        policy, _, reference = self.reward.removeprefix("implicit:").partition(",")
        return policy.strip(), reference.strip()


class EnsembleSource(RewardSource):
    """Several sources that judge the same thing. Their weighted scores are combined into one."""

    kind: ClassVar[str] = "ensemble"

    members: Members
    """Two or more sources, each written like any other."""
    combine: str = "mean"
    """mean, min, or mean-std:K, which is the mean minus K standard deviations over the members (Coste et al.,
    arXiv:2310.02743)."""

    @field_validator("members")
    @classmethod
    def _has_members(cls, value: list[RewardSource]) -> list[RewardSource]:
        if len(value) < 2:
            raise ConfigError("an ensemble needs two members or more", got=len(value))
        if process := [member.reward for member in value if member.is_process or member.kind == "ensemble"]:
            raise ConfigError(
                "a member of an ensemble must give one number for each completion", got=", ".join(process)
            )
        return value

    @field_validator("combine")
    @classmethod
    def _known(cls, value: str) -> str:
        if Combination.parse(value).kind == "weights":
            raise ConfigError(
                "the weights of an ensemble's members do not stand in combine",
                got=value,
                fix="give each member its weight",
            )
        return value

    def leaves(self) -> Iterator[RewardSource]:
        yield self
        yield from self.members


RULES = ("length", "format", "regex", "repetition")
SOURCES: dict[str, type[RewardSource]] = {
    source.kind: source
    for source in (
        ModelSource,
        FunctionSource,
        LengthSource,
        FormatSource,
        RegexSource,
        RepetitionSource,
        EndpointSource,
        ImplicitSource,
        EnsembleSource,
    )
}
"""Registered sources, by kind."""


def is_function(spec: str) -> bool:
    """Whether `spec` is `module:function`. A folder with that name takes precedence."""
    return FUNCTION.fullmatch(spec) is not None and not Path(spec).is_dir()


def kind_of(text: str) -> str:
    """The kind of source that the text names. A rule's name is the rule; write a folder of that name as ./NAME."""
    if text in (*RULES, "ensemble"):
        return text
    if text.startswith(("http://", "https://")):
        return "endpoint"
    if text.startswith("implicit:"):
        return "implicit"
    return "function" if is_function(text) else "model"


def _keyless(text: str) -> str:
    """The text as a message may show it: an address without anything that may be a key."""
    if kind_of(text) != "endpoint":
        return text
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


def read_source(value: Any) -> RewardSource:
    """Reads one source. ConfigError for anything else."""
    if isinstance(value, RewardSource):
        return value
    if isinstance(value, str):
        value = read_value(value) if value.startswith("{") else {"reward": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("reward"), str) or not value["reward"].strip():
        raise ConfigError("not a reward", got=value, expected=FORMS)
    if kind_of(value["reward"]) == "implicit" and "beta" not in value:
        raise ConfigError(
            "an implicit reward needs the beta that its policy was trained with",
            got=value["reward"],
            fix=f"give it with the reward: --reward '{{reward: \"{value['reward']}\", beta: 0.1}}'",
        )
    return parse_options(SOURCES[kind_of(value["reward"])], value, where=f" of reward {_keyless(value['reward'])}")


def read_sources(value: Any) -> list[RewardSource]:
    """Reads one source or several. ConfigError for anything else, and for two sources with one name."""
    given = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    sources = [read_source(part) for part in given]
    if not sources:
        raise ConfigError("no reward is given", expected=FORMS)
    twice = [label for label, n in Counter(leaf.label for s in sources for leaf in s.leaves()).items() if n > 1]
    if twice:
        raise ConfigError(f"two rewards are called {twice[0]}", fix="give them names: {reward: …, name: …}")
    return sources


def read_outcomes(value: Any) -> list[RewardSource]:
    """Like `read_sources`, but with ConfigError for a source that scores steps."""
    sources = read_sources(value)
    if process := [source.reward for source in sources if source.is_process]:
        raise ConfigError(
            "supervision process has no effect where completions are judged as a whole",
            got=process[0],
            fix="leave it out: a process model then gives the score of its last step",
        )
    return sources


def written(sources: Sequence[RewardSource] | None) -> Any:
    """The sources as a user writes the option: text where that is enough, otherwise mappings of all that applies."""
    if sources is None:
        return None
    plain = [
        source.reward
        if source.model_fields_set == {"reward"} and source.kind in ("model", "function")
        else source.model_dump(exclude_none=True)
        for source in sources
    ]
    return plain[0] if len(plain) == 1 else plain


Rewards = Annotated[
    list[SerializeAsAny[RewardSource]], BeforeValidator(read_sources), PlainSerializer(written, return_type=Any)
]
"""An option's type: one source or several, which are added up."""
OutcomeRewards = Annotated[
    list[SerializeAsAny[RewardSource]], BeforeValidator(read_outcomes), PlainSerializer(written, return_type=Any)
]
"""The same, where completions are judged as a whole."""
Members = Annotated[list[SerializeAsAny[RewardSource]], BeforeValidator(read_sources), PlainSerializer(written)]
EnsembleSource.model_rebuild()


def described(sources: Sequence[RewardSource]) -> str:
    """The sources as a message shows them."""
    return " + ".join(
        source.reward if source.weight == 1 else f"{source.weight:g} * {source.reward}" for source in sources
    )
