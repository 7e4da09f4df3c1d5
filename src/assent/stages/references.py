"""The sources of a preference stage's reference log-probabilities, and how they reach the groups.

none        the losses take no reference; no model is read
logged      the data has them; no reference model is loaded
fixed       the policy's start or a second model, read once before training and cached by content
following   TR-DPO (Gorbatovski et al., arXiv:2404.09656): a second model in memory, read at every step, which moves
            towards the policy every `reference_sync_steps` steps
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from assent.config.loss_options import LOGGED, ReferenceOptions
from assent.config.options import PromptOptions, StageOptions
from assent.engine.learner import Learner
from assent.engine.references import Reference, completion_sums
from assent.errors import ConfigError, DataError, ModelError
from assent.models.batch import TokenGroup
from assent.models.loading import check_adapter, check_context, load_config, load_tokenizer
from assent.models.token_store import Chosen, Overlaid, StoredGroups, counts_of, numbers_of
from assent.stages.session import Session
from assent.stages.stage_data import StageData

REFERENCE = "reference_logps"


def check_reference(config: StageOptions, data: StageData) -> None:
    """ModelError or ConfigError if the reference's folder cannot be used. Loads no weights."""
    if config.reference not in (None, LOGGED):
        check_same_tokens(config.reference, config, data, what="the reference")


def check_same_tokens(path: str, config: PromptOptions, data: StageData, *, what: str) -> None:
    """ModelError or ConfigError if the model at `path` cannot read the policy's tokens or sequences that long."""
    check_context(load_config(path, revision=config.revision), config.max_length, whose=f"{what} {path}")
    check_adapter(path, revision=config.revision)
    try:
        theirs = load_tokenizer(path, revision=config.revision).get_vocab()
    except ModelError:
        return  # a folder without a tokenizer: assume the policy's
    ours = data.tokenizer.get_vocab()  # it may have control tokens that were added for a template
    shared = ours.keys() & theirs.keys()
    if len(shared) < 0.9 * len(theirs) or any(ours[token] != theirs[token] for token in shared):
        raise ConfigError(
            f"{what} has another tokenizer than the policy",
            got=path,
            expected="a tokenizer that gives the same tokens the same ids",
            fix="use a model of the policy's own family, with its tokenizer",
        )


class StageReference(Protocol):
    """The interface of a preference stage's reference."""

    origin: str
    """A row of the table at the top of this file, or `start` for the policy's start."""
    path: str | None
    """The model to measure the policy's distance from. None: the policy's start."""

    def read(self, groups: Sequence[TokenGroup]) -> Sequence[TokenGroup]:
        """The groups with the reference's summed log-probabilities added."""

    def follow(self, updates: int) -> None:
        """Called after every update with the number of updates so far."""

    def finish(self) -> None:
        """Law 4: checks the reference at the end. GateError if it has changed in a way that it should not."""


def open_reference(config: ReferenceOptions, session: Session, *, needed: bool) -> StageReference:
    """Opens the reference. Call this before the run is resumed, when the policy still has its start's weights."""
    if not needed:
        return NoReference()
    if config.reference_sync_steps:
        return FollowingReference(config, session)
    return FixedReference(config, session)


class NoReference:
    origin = "none"
    path: str | None = None

    def read(self, groups: Sequence[TokenGroup]) -> Sequence[TokenGroup]:
        return list(groups)

    def follow(self, updates: int) -> None:
        pass

    def finish(self) -> None:
        pass


class FixedReference(NoReference):
    """Log-probabilities that are known before the first update. The session's groups hold them from then on."""

    def __init__(self, config: ReferenceOptions, session: Session) -> None:
        self.session = session
        if config.reference == LOGGED:
            self.origin = "logged"
            train, held_out = _logged(session.train_tokens), _logged(session.eval_tokens)
            check_logged(session.train_tokens, train, session.models.learner)
        else:
            self.origin = "start" if config.reference is None else "fixed"
            self.path = config.reference
            used = session.rows_used()
            parts = Chosen(session.train_tokens, used), session.eval_tokens
            read, held_out = session.models.reference_logps(config.reference, *parts)
            train = _spread(read, used, session.train_tokens)
        self.digest = digest(train)
        session.train_tokens = with_reference(session.train_tokens, train)
        session.eval_tokens = with_reference(session.eval_tokens, held_out)

    def finish(self) -> None:
        stored = numbers_of(self.session.train_tokens, REFERENCE)
        self.session.models.check_same(REFERENCE, self.digest, digest(torch.from_numpy(stored)))


class ReadReference(NoReference):
    """A fixed policy in memory, or the policy with its adapter off. It is read in every round, on what was sampled."""

    def __init__(self, path: str | None, session: Session) -> None:
        self.session, self.path = session, path
        self.origin = "start" if path is None else "fixed"
        self.model = session.models.add_reference(path)

    def read(self, groups: Sequence[TokenGroup]) -> Sequence[TokenGroup]:
        return with_reference(groups, completion_sums(groups, self.model))

    def finish(self) -> None:
        self.session.models.check_unchanged(self.model)


class FollowingReference:
    """A model in memory that every checkpoint holds. Held-out figures use the reference as it is at that step."""

    LAST = "reference_after_last_sync"

    def __init__(self, config: ReferenceOptions, session: Session) -> None:
        self.session = session
        self.origin = "start" if config.reference is None else "following"
        self.path = config.reference
        self.every, self.share = config.reference_sync_steps, float(config.reference_mixup_alpha or 1.0)
        model = session.models.add_reference(config.reference)
        assert isinstance(model, Reference)
        self.model = session.models.moving["reference"] = model
        session.state[self.LAST] = self.model.fingerprint()
        session.state["reference_syncs"] = 0

    def read(self, groups: Sequence[TokenGroup]) -> Sequence[TokenGroup]:
        return with_reference(groups, completion_sums(groups, self.model)) if groups else []

    def follow(self, updates: int) -> None:
        if updates % self.every:
            return
        self.model.move_towards(self.session.models.learner.module, self.share)
        self.session.state["reference_syncs"] += 1
        self.session.state[self.LAST] = self.model.fingerprint()  # only this method may change it

    def finish(self) -> None:
        syncs = self.session.state["reference_syncs"]
        self.session.log.note(
            f"the reference was moved towards the policy {syncs} times (TR-DPO, share {self.share:g})"
        )
        self.session.models.check_same(self.LAST, self.session.state[self.LAST], self.model.fingerprint())


def with_reference(groups: Sequence[TokenGroup], logps: Tensor) -> Sequence[TokenGroup]:
    """Adds the reference's summed log-probabilities, (S,) in the groups' order, to the groups."""
    if isinstance(groups, StoredGroups):
        return Overlaid(groups, REFERENCE, logps.numpy())
    result, start = [], 0
    for group in groups:
        end = start + len(group.completions)
        result.append(replace(group, completion={**group.completion, REFERENCE: logps[start:end].numpy()}))
        start = end
    return result


def _spread(read: Tensor, used: Sequence[int] | np.ndarray, groups: Sequence[TokenGroup]) -> Tensor:
    """(S,) over the completions of all groups what was read for those of `used`; NaN where nothing was read."""
    if len(used) == len(groups):
        return read
    sizes = torch.from_numpy(counts_of(groups).astype(np.int64))
    is_used = torch.zeros(len(groups), dtype=torch.bool)
    is_used[torch.as_tensor(np.asarray(used))] = True
    spread = torch.full((int(sizes.sum()),), torch.nan)
    spread[torch.repeat_interleave(is_used, sizes)] = read
    return spread


def digest(values: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of the numbers' bytes."""
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()[:16]


def _logged(groups: Sequence[TokenGroup]) -> Tensor:
    return torch.from_numpy(numbers_of(groups, "logp").copy()).float()


SAMPLED_GROUPS = 32
"""Size of the sample on which logged numbers are compared with the policy's own."""
FACTOR = 4.0
"""Largest ratio between the sample's total logged log-probability and the policy's own, in either direction."""


def check_logged(groups: Sequence[TokenGroup], logged: Tensor, learner: Learner) -> None:
    """Checks that the logged numbers can be a reference's sums over these tokens. DataError if they cannot.

    The check compares them with the policy's own sums on a sample. A reference's sums are within a small factor of the
    policy's, and larger for longer and less likely completions. Means per token, other rows' numbers and other units
    fail. Sums over the tokens of another tokenizer pass, if the models are alike: a text's log-probability hardly
    depends on how it is cut into tokens.
    """
    starts = np.concatenate([[0], np.cumsum(counts_of(groups))])
    sample = sorted({round(i) for i in np.linspace(0, len(groups) - 1, min(SAMPLED_GROUPS, len(groups)))})
    own = completion_sums([groups[i] for i in sample], learner).double()
    given = torch.cat([logged[starts[i] : starts[i + 1]] for i in sample]).double()
    ratio = float(given.sum() / own.sum().clamp(max=-1e-6))
    fix = "log sums over the completion's tokens, EOS included, with this model's tokenizer; or leave --reference out"
    if not 1 / FACTOR <= ratio <= FACTOR:
        raise DataError(
            "the logged log-probabilities cannot be sums over these completions' tokens",
            got=f"{float(given.mean()):.4g} nats per completion, mean over a sample of {len(given)}",
            expected=f"within a factor of {FACTOR:g} of the policy's own, {float(own.mean()):.4g}",
            fix=fix,
        )
    if len(own) < 16 or float(own.std()) < 0.05 * float(own.mean().abs()):
        return  # too few, or too similar, to tell rows apart
    correlation = float(torch.corrcoef(torch.stack([given, own]))[0, 1])
    if not correlation > 2 / len(own) ** 0.5:  # a NaN (all logged numbers are equal) fails too
        raise DataError(
            "the logged log-probabilities do not belong to these completions",
            got=f"a correlation of {correlation:.2f} with the policy's own over {len(own)} completions",
            expected="a clearly positive one",
            fix=fix,
        )
