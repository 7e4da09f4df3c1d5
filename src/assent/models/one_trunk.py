"""Several models in the memory of one (Hydra: Santacroce et al., arXiv:2309.00754, §3). All share the weights of a
frozen base, and each has its own adapter and head.

Each model has its own modules around the base's parameters, so it is read, trained and saved as if it were alone. No
adapter is switched.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from assent.errors import ConfigError, ModelError
from assent.models import adapters
from assent.models.batch import GroupBatch, Outputs
from assent.models.folders import members_of, resolve_folder
from assent.models.heads import VALUE_HEAD, add_score_head, has_classifier_class, read_head, save_head
from assent.models.module import AlignmentModel
from assent.models.saving import quiet
from assent.models.trunk import trunk_of
from assent.models.weight_hashes import content_of


def check_stands_on_base(path: str, base: str, *, what: str, revision: str | None = None) -> None:
    """Raises ConfigError unless `path` is a reward model's adapter, or an ensemble of them, on the model at `base`."""
    folder, base_folder = resolve_folder(path, revision=revision), resolve_folder(base, revision=revision)
    if members := members_of(folder):
        for member in members:
            check_stands_on_base(str(member), base, what=what)
        return
    train = f"assent reward --model {base} --lora-r 16 …"
    if not adapters.is_adapter(folder) or not adapters.is_scorer_adapter(folder):
        raise ConfigError(
            f"with --trunk one, {what} must be an adapter on the policy's base",
            got=f"{path}: a model with its own weights",
            fix=f"train one with: {train}; or leave --trunk out",
        )
    named = adapters.base_of(folder)
    if named.content:
        same = named.content == content_of(base_folder)
    else:
        same = resolve_folder(named.path, revision=named.revision).resolve() == base_folder.resolve()
    if not same:
        raise ConfigError(
            f"{what} is an adapter on a base that is not the policy's",
            got=f"{path}: on {named.path}",
            expected=base,
            fix=f"train one on that base with: {train}",
        )


def check_base_is_plain(path: str, *, revision: str | None = None) -> None:
    """Raises ConfigError if the policy's start is an adapter, because no folder has its merged weights."""
    if adapters.is_adapter(resolve_folder(path, revision=revision)):
        raise ConfigError(
            "with --trunk one, the policy's start is the base of all adapters, but this start is itself an adapter",
            got=path,
            fix=f"assent merge {path} --output-dir FOLDER, then train the reward model on that folder",
        )


def sibling_scorer(policy: PreTrainedModel, *, num_labels: int) -> PreTrainedModel:
    """A scorer on the base of an adapted policy. It shares the base's parameters, and its head is zero.

    Raises ModelError if the architecture has a classifier, but with another trunk.
    """
    if any(".modules_to_save." in name for name, _ in policy.named_parameters()):
        raise ModelError(
            "with --trunk one, the base is frozen, but this policy's new tokens need trained embeddings",
            fix="train with the new tokens first (assent sft), merge, and start from the result; or leave --trunk out",
        )
    shared: dict[int, Any] = {id(parameter): parameter for parameter in policy.parameters()}
    base: PreTrainedModel = copy.deepcopy(policy, shared).unload()  # type: ignore[operator]
    if not has_classifier_class(base.config):
        return add_score_head(base, num_labels).eval()
    trunk: Any = trunk_of(base)
    with quiet(), torch.device("meta"):
        scorer: Any = AutoModelForSequenceClassification.from_config(base.config, trust_remote_code=False)
    head = getattr(scorer, "score", None)
    if type(trunk_of(scorer)) is not type(trunk) or not isinstance(head, nn.Linear):
        raise ModelError(
            "this architecture has no classifier with the policy's trunk",
            got=f"{type(scorer).__name__} beside {type(base).__name__}",
            fix="--trunk separate",
        )
    setattr(scorer, scorer.base_model_prefix, trunk)
    scorer.config = trunk.config
    scorer.config.num_labels = scorer.num_labels = num_labels
    scorer.score = nn.Linear(
        head.in_features, num_labels, bias=head.bias is not None, dtype=base.dtype, device=base.device
    )
    for parameter in scorer.score.parameters():
        nn.init.zeros_(parameter)
    classifier: PreTrainedModel = scorer.eval()
    return classifier


def reward_adapter(policy: PreTrainedModel, path: str, *, trained: bool = False) -> PreTrainedModel:
    """The reward model whose adapter is in the folder, on the policy's base. Raises ModelError."""
    folder = resolve_folder(path)
    scorer = sibling_scorer(policy, num_labels=adapters.num_labels_of(folder))
    adapted = adapters.attach_adapter(scorer, folder, trained=trained)
    adapters.apply_record(scorer.config, folder)
    return adapted


def value_head_of(path: str, model: PreTrainedModel, *, revision: str | None = None) -> nn.Linear:
    """The value head in the folder of a policy with a shared trunk; zero if there is none. Raises ModelError."""
    head = nn.Linear(int(model.config.get_text_config().hidden_size), 1)
    file = resolve_folder(path, revision=revision) / VALUE_HEAD
    if file.exists():
        read_head(file, head)
    else:
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    return head


def save_value_head(folder: Path, head: nn.Linear | None) -> None:
    """Writes the head, if there is one, into a model's folder."""
    if head is not None:
        save_head(folder / VALUE_HEAD, head.state_dict())


def siblings(model: PreTrainedModel, number: int) -> list[PreTrainedModel]:
    """`model` and copies of it, `number` in all. They share all parameters but the score head's."""
    own = {id(parameter) for parameter in getattr(model, "score", nn.Module()).parameters()}
    shared: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters() if id(parameter) not in own}
    return [model, *(copy.deepcopy(model, dict(shared)) for _ in range(number - 1))]


class Ensemble(nn.Module):
    """An ensemble of M reward models, scorers of one head each, read side by side: (S,) of each becomes (S, M)."""

    def __init__(self, members: Sequence[AlignmentModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.tier, self.config = members[0].tier, members[0].config

    def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
        """The outputs of an AlignmentModel with a head for each member."""
        return side_by_side([member(batch, want) for member in self.members], want)


def side_by_side(outputs: Sequence[Outputs], want: frozenset[str] | set[str]) -> Outputs:
    """The outputs of members of one head each for one batch, as if from one scorer with as many heads."""
    fields: dict[str, list[Tensor]] = {name: [getattr(one, name) for one in outputs] for name in want}
    return Outputs(**{name: torch.stack(parts, dim=-1) for name, parts in fields.items()})


@contextmanager
def resident(module: nn.Module, device: torch.device | str, *, offloaded: bool) -> Iterator[None]:
    """Inside the block, a module that is `offloaded` between reads is on its device, where others always are."""
    if offloaded:
        module.to(device)
    try:
        yield
    finally:
        if offloaded:
            module.to("cpu")
