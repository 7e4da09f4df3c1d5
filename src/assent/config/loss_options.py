"""Options that name losses and references: one loss by flags, or a weighted sum. Checked before data is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from assent.config.loss_declaration import unknown
from assent.config.losses import (
    PREFERENCE_LOSSES,
    RANKING_LOSSES,
    SCORE_LOSSES,
    THUMBS_LOSSES,
    LossDeclaration,
    preference_loss_declaration,
    ranking_loss_declaration,
    reward_loss_declaration,
)
from assent.config.options import NonNegative, Options, StageDefaults, fixed
from assent.config.references import ReferenceModel
from assent.errors import ConfigError


def _number(value: Any) -> Any:
    """A flag's text as a number if it is one. Some hyperparameters are names."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


Hyperparameters = dict[str, Annotated[float | str, BeforeValidator(_number)]]


class LossEntry(Options):
    """One loss of a weighted sum. Its text is a name, or JSON with these keys."""

    name: str
    """Name of the loss."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of this loss in the sum."""
    hyperparameters: Hyperparameters = Field(default_factory=dict)
    """Hyperparameters of this loss. Those not given keep their defaults."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value) if value.lstrip().startswith("{") else {"name": value}
        except json.JSONDecodeError as error:
            raise ValueError(f"a loss is given by its name or as JSON: {error}") from None

    @property
    def is_ranking(self) -> bool:
        """Whether it is a loss of whole rankings. The others are pair losses."""
        return is_ranking_loss(self.name)

    @property
    def declaration(self) -> LossDeclaration:
        return comparison_loss_declaration(self.name)


def is_ranking_loss(name: str) -> bool:
    """Whether the name is a ranking loss. A name in both registries means the pair loss here."""
    return name in RANKING_LOSSES and name not in PREFERENCE_LOSSES


def comparison_loss_declaration(name: str) -> LossDeclaration:
    """The declaration of a loss that `dpo` can train with: a pair loss or a ranking loss.

    A ranking loss takes implicit rewards as its scores (Rafailov et al., arXiv:2305.18290, appendix A.3). So it has a
    beta and needs a reference. ConfigError for an unknown name, with the nearest known one.
    """
    if not is_ranking_loss(name):
        if ":" not in name and name not in {**PREFERENCE_LOSSES, **THUMBS_LOSSES}:
            raise unknown(f"no loss {name!r}", name, {**PREFERENCE_LOSSES, **RANKING_LOSSES})
        return preference_loss_declaration(name)
    declared = ranking_loss_declaration(name)
    if "many" not in declared.accepts:
        raise ConfigError(
            f"loss {name!r} compares two scores: of implicit rewards, this is the loss sigmoid", fix="use sigmoid"
        )
    beta = preference_loss_declaration("sigmoid").hyperparameters["beta"]
    return replace(declared, hyperparameters={"beta": beta, **declared.hyperparameters}, needs_reference=True)


class LossOptions(Options):
    """The loss, given by its name and hyperparameters, or several losses with weights."""

    loss_type: str | None = None
    """Loss to train with. Default: sigmoid, which is DPO (arXiv:2305.18290). docs/papers.md lists all losses."""
    beta: float | None = None
    """Strength of the pull to the reference, for losses that have a beta. Default: the loss's own (sigmoid: 0.1)."""
    hyperparameters: Hyperparameters = Field(default_factory=dict)
    """Other hyperparameters of the loss, by name: --hyperparameters.label_smoothing 0.1. docs/papers.md lists them."""
    losses: list[LossEntry] = Field(default_factory=list)
    """A weighted sum of losses, instead of --loss-type. Each is a name, or {"name": …, "weight": …, "hyperparameters":
    …}."""

    @model_validator(mode="after")
    def _one_way_to_name_losses(self) -> Self:
        given = [name for name in ("loss_type", "beta", "hyperparameters") if getattr(self, name) not in (None, {})]
        if self.losses and given:
            raise ConfigError(
                f"{given[0]} has no effect with losses: each entry has its own",
                fix=f"leave {given[0]} out, or put it into an entry of losses",
            )
        if self.losses:
            names = [entry.name for entry in self.losses]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ConfigError(f"loss {twice[0]!r} is listed twice in losses", fix="give it once, with its weight")
            self._set(losses=[_resolved(entry) for entry in self.losses])
            return self
        if "beta" in self.hyperparameters:
            raise ConfigError("beta is an option, not one of hyperparameters", fix="give --beta")
        beta = {} if self.beta is None else {"beta": self.beta}
        entry = _resolved(LossEntry(name=self.loss_type or "sigmoid", hyperparameters={**self.hyperparameters, **beta}))
        rest = {name: value for name, value in entry.hyperparameters.items() if name != "beta"}
        self._set(loss_type=entry.name, beta=entry.hyperparameters.get("beta"), hyperparameters=rest)
        return self

    def _set(self, **values: Any) -> None:
        """Writes defaults into the configuration, so that the run's record has them."""
        self.__dict__.update(values)

    @property
    def entries(self) -> list[LossEntry]:
        """The losses with all their hyperparameters."""
        if self.losses:
            return self.losses
        assert self.loss_type is not None
        beta = {} if self.beta is None else {"beta": self.beta}
        return [LossEntry(name=self.loss_type, hyperparameters={**beta, **self.hyperparameters})]


def _resolved(entry: LossEntry) -> LossEntry:
    """The entry with all hyperparameters that have an effect. ConfigError as in `LossDeclaration.resolve`."""
    return entry.model_copy(update={"hyperparameters": entry.declaration.resolve(entry.hyperparameters)})


class RewardLossOptions(Options):
    """The loss of a reward model, given by its name and hyperparameters, or several ranking losses with weights."""

    loss_type: str | None = None
    """Loss to train with. For comparisons: bradley_terry (the default). For rankings: plackett_luce, davidson and
    rao_kupper, which allow ties, or all_pairs. For ratings: mse. For thumbs and probabilities: bce."""
    hyperparameters: Hyperparameters = Field(default_factory=dict)
    """Hyperparameters of the loss, by name: --hyperparameters.label_smoothing 0.1. docs/papers.md lists them."""
    losses: list[LossEntry] = Field(default_factory=list)
    """A weighted sum of losses, instead of --loss-type. Each is a name, or {"name": …, "weight": …, "hyperparameters":
    …}."""

    @model_validator(mode="after")
    def _losses_are_declared(self) -> Self:
        given = [name for name in ("loss_type", "hyperparameters") if getattr(self, name) not in (None, {})]
        if self.losses and given:
            raise ConfigError(
                f"{given[0]} has no effect with losses: each entry has its own",
                fix=f"leave {given[0]} out, or put it into an entry of losses",
            )
        name = self.loss_type or "bradley_terry"
        entries = self.losses or [LossEntry(name=name, hyperparameters=self.hyperparameters)]
        resolved = [
            entry.model_copy(
                update={"hyperparameters": reward_loss_declaration(entry.name).resolve(entry.hyperparameters)}
            )
            for entry in entries
        ]
        names = [entry.name for entry in resolved]
        if len(set(names)) < len(names):
            raise ConfigError(
                "a loss is listed twice in losses", got=", ".join(names), fix="give it once, with its weight"
            )
        if self.losses and any(name in SCORE_LOSSES for name in names):
            raise ConfigError(
                "losses takes ranking losses only: single labels have one loss",
                got=", ".join(names),
                fix="give that loss as loss_type",
            )
        self.__dict__.update(
            {"losses": resolved}
            if self.losses
            else {"loss_type": names[0], "hyperparameters": resolved[0].hyperparameters}
        )
        return self

    @property
    def entries(self) -> list[LossEntry]:
        """The losses with all their hyperparameters."""
        return self.losses or [LossEntry(name=str(self.loss_type), hyperparameters=self.hyperparameters)]

    @property
    def score_loss(self) -> str | None:
        """The loss of single labels; None for losses of rankings."""
        return self.loss_type if self.loss_type in SCORE_LOSSES else None


class ReferenceOptions(StageDefaults):
    """What the policy is compared with."""

    reference: ReferenceModel | None = None
    """Reference policy: a folder or a hub name. logged: use the log-probabilities in the data. Default: the policy as
    it starts."""
    reference_cache: str | None = None
    """Folder of cached reference log-probabilities, keyed by content. Default: a folder inside the user's cache
    folder."""
    reference_sync_steps: NonNegative = 0
    """TR-DPO (arXiv:2404.09656): move the reference towards the policy every this many steps. 0: never."""
    reference_mixup_alpha: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the policy in the moved reference; 1 copies the policy. Needs --reference-sync-steps. Default: 0.6."""

    @fixed
    def lora_r(self) -> int:
        return 0

    @model_validator(mode="after")
    def _no_reference_option_without_effect(self) -> Self:
        moves = self.reference_sync_steps > 0
        if self.reference_mixup_alpha is not None and not moves:
            raise ConfigError(
                "reference_mixup_alpha has no effect without reference_sync_steps", fix="give both, or neither"
            )
        if moves and self.reference == LOGGED:
            raise ConfigError(
                "reference_sync_steps cannot move logged log-probabilities",
                fix="leave it out, or give a model as reference",
            )
        if self.reference_cache is not None and (moves or self.reference == LOGGED):
            why = "is read again at every step" if moves else "is in the data already"
            raise ConfigError(f"reference_cache has no effect: the reference {why}", fix="leave it out")
        if moves and self.lora_r:
            raise ConfigError(
                "reference_sync_steps moves all weights, but lora_r trains only an adapter", fix="leave one of them out"
            )
        if moves and self.metric_for_best_model is not None:
            raise ConfigError(
                "metric_for_best_model compares figures, but reference_sync_steps moves the reference between them",
                fix="leave one of them out",
            )
        if moves and self.reference_mixup_alpha is None:
            self.__dict__["reference_mixup_alpha"] = 0.6
        return self

    def refuse_reference_options(self, losses: str) -> None:
        """ConfigError if a reference option is given. For losses that take no reference."""
        given = {name: value for name, value in _given(self, ReferenceOptions).items() if value}
        if given:
            name = next(iter(given))
            raise ConfigError(
                f"{name} has no effect: {losses} takes no reference", got=given[name], fix=f"leave {name} out"
            )


LOGGED = "logged"
"""Value of `reference` for rows that hold the reference's numbers themselves."""


def _given(config: Options, options: type[Options]) -> Mapping[str, Any]:
    return {name: getattr(config, name) for name in options.model_fields}
