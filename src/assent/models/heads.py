"""Linear heads on a causal model's last hidden states, each in a file of its own beside the model's weights (law 10).

`value_head.safetensors`   the critic on a shared trunk: (d) -> (1)
`score_head.safetensors`   a reward model or critic whose architecture has no class for sequence classification with a
                           linear head: (d) -> (labels). The folder's config.json has `assent_score_head: true`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from assent.errors import ModelError
from assent.models.folder_contents import SCORE_FLAG, check_is_inside, stored_tensors
from assent.models.trunk import trunk_of

VALUE_HEAD = "value_head.safetensors"


def is_classifier(config: Any) -> bool:
    """Whether the configuration is that of a model with a score head."""
    names = getattr(config, "architectures", None) or ()
    return has_own_head(config) or any(name.endswith("ForSequenceClassification") for name in names)


def has_own_head(config: Any) -> bool:
    """Whether the configuration is that of a causal model with a score head in a file of its own."""
    return getattr(config, SCORE_FLAG, None) is True


def has_classifier_class(config: Any) -> bool:
    """Whether transformers has a class for sequence classification of this kind, with a linear head `score`."""
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        return False
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    return isinstance(getattr(model, "score", None), nn.Linear)


def add_score_head(model: PreTrainedModel, num_labels: int) -> PreTrainedModel:
    """`model`, a causal one, with a head `score` of zeros on its last hidden states: a scorer."""
    width = int(model.config.get_text_config().hidden_size)
    head = nn.Linear(width, num_labels, bias=False, dtype=model.dtype, device=model.device)
    nn.init.zeros_(head.weight)
    model.score = head
    model.config.num_labels = num_labels
    setattr(model.config, SCORE_FLAG, True)
    return model


def freeze_unread(model: Any) -> None:
    """Freezes what a scorer does not read: its causal model's own head, which it keeps so that its folder opens."""
    read = {id(parameter) for part in (trunk_of(model), model.score) for parameter in part.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in read:
            parameter.requires_grad_(False)


def read_head(file: Path, head: nn.Linear) -> None:
    """Fills `head` from its file. Raises ModelError, which names the file and what is wrong with it."""
    check_is_inside(file.parent, file)
    stored_tensors(file)
    try:
        stored = load_file(file)
        if not all(tensor.is_floating_point() for tensor in stored.values()):
            raise RuntimeError("its numbers are not floating-point numbers")
        head.load_state_dict(stored)
    except RuntimeError as error:
        raise ModelError(
            "the head does not fit this model",
            got=f"{file}: {str(error).splitlines()[-1].strip()}",
            expected=f"weight {tuple(head.weight.shape)}" + ("" if head.bias is None else " and bias"),
            fix="check that the file belongs to the folder's config.json and weights",
        ) from error


def save_head(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes a head's weights by their names in the head."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, file)
