"""Loads models and tokenizers from folders or the hub (laws 6 and 10): safetensors only, and no code from folders."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from assent.errors import ModelError
from assent.models import adapters
from assent.models.folder_contents import SCORE_HEAD, check_finite, check_growth, eos_ids_in, first_line
from assent.models.folders import check_config, check_weights, has_tokenizer, members_of, read_json, resolve_folder
from assent.models.heads import (
    add_score_head,
    freeze_unread,
    has_classifier_class,
    has_own_head,
    is_classifier,
    read_head,
)
from assent.models.one_trunk import siblings
from assent.models.saving import quiet, save_model
from assent.models.trunk import trunk_of
from assent.models.vocabulary import choose_pad, sync_tokens

__all__ = ["check_context", "fingerprint", "load_config", "load_policy", "load_scorer", "load_tokenizer", "save_model"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_policy(
    path: str | Path,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    quantised: Mapping[str, Any] | None = None,
    merged: bool = True,
) -> PreTrainedModel:
    """A causal language model on the CPU, in evaluation mode. From an adapter folder (PEFT) it is the merged base, or,
    if not `merged`, the base with the adapter in its layers, which alone requires gradients.

    With `tokenizer`, embedding rows, pad and EOS ids are made to fit it. `max_length`: the least context.
    `quantised`: the options from `adapters.quantisation`. Raises ModelError, which says what the folder lacks.
    """
    folder = resolve_folder(path, revision=revision)
    config = load_config(folder)
    check_is_policy(config, folder)
    if adapters.is_adapter(folder):
        base = _base_of(folder, config, dtype=dtype)
        model = adapters.merge_adapter(base, folder) if merged else adapters.attach_adapter(base, folder, trained=True)
    else:
        check_weights(folder)
        model = _load(AutoModelForCausalLM, folder, may_miss=set(), dtype=DTYPES[dtype], **(quantised or {}))
    return _ready(model, folder, tokenizer, max_length)


def check_is_policy(config: Any, path: str | Path) -> None:
    """Raises ModelError if the configuration is a classifier's."""
    if is_classifier(config):
        raise ModelError(
            "this folder holds a reward model or critic, not a policy",
            got=f"{path}: {SCORE_HEAD if has_own_head(config) else ', '.join(config.architectures)}",
            expected="a causal language model",
        )


def load_scorer(
    path: str | Path,
    *,
    num_labels: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
    revision: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    quantised: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """A model whose linear head is `model.score`: a sequence classifier, or a causal model with a head beside it where
    transformers has no such class (models/heads.py). A scorer's folder keeps its head and its labels, of which there
    must be `num_labels`, if given.

    A causal folder gets a fresh head of `num_labels` rows (default 1), drawn with `seed` from N(0, 1/sqrt(d + 1)), d
    the hidden size (Stiennon et al., arXiv:2009.01325). From an adapter folder of either kind it is the merged base.
    Raises ModelError.
    """
    folder = resolve_folder(path, revision=revision)
    check_single_model(folder)
    config = load_config(folder)
    has_head = is_classifier(config)
    if has_head and num_labels not in (None, config.num_labels):
        raise ModelError(
            "the classifier does not have the given number of heads",
            got=f"{folder}: {config.num_labels}",
            expected=num_labels,
            fix=f"--num-heads {config.num_labels} (in assent reward), or start from a causal model with fresh heads",
        )
    num_labels = config.num_labels if has_head else num_labels or 1
    if adapters.is_adapter(folder):
        model = _merged(folder, config, dtype=dtype)
        model = model if has_head else _classifier_of(model, num_labels)
    else:
        check_weights(folder)
        options = {"dtype": DTYPES[dtype], **(quantised or {})}
        model = _load_scorer(folder, config, num_labels=num_labels, has_head=has_head, **options)
    _check_head(model, folder)
    if not has_head:
        draw_head(model, seed=seed)
    freeze_unread(model)
    return _ready(model, folder, tokenizer, max_length)


def _load_scorer(folder: Path, config: Any, *, num_labels: int, has_head: bool, **options: Any) -> PreTrainedModel:
    if not has_own_head(config) and (has_head or has_classifier_class(config)):
        more = {} if has_head else {"num_labels": num_labels}
        may_miss = set() if has_head else {"score.weight"}
        return _load(AutoModelForSequenceClassification, folder, may_miss=may_miss, **more, **options)
    model: Any = add_score_head(_load(AutoModelForCausalLM, folder, may_miss=set(), **options), num_labels)
    if has_head:
        read_head(folder / SCORE_HEAD, model.score)
        check_finite(model, folder)
    return model


def check_single_model(path: str | Path, *, revision: str | None = None) -> None:
    """Raises ModelError if the folder has an ensemble of adapters, which is several models."""
    if members := members_of(resolve_folder(path, revision=revision)):
        raise ModelError(
            f"this folder holds an ensemble of {len(members)} adapters, but one model is needed",
            got=path,
            fix=f"give one of its members: {members[0]}",
        )


def load_scorers(path: str | Path, *, dtype: str = "float32", revision: str | None = None) -> list[PreTrainedModel]:
    """The members of an ensemble of adapters, on one trunk in memory. Any other folder gives a single reward model.

    Raises ModelError.
    """
    folder = resolve_folder(path, revision=revision)
    members = members_of(folder)
    if not members:
        return [load_scorer(folder, dtype=dtype)]
    bases = [adapters.base_of(member) for member in members]
    for member, base in zip(members, bases, strict=True):
        if (base.path, base.content) != (bases[0].path, bases[0].content):
            raise ModelError(
                "the members of this ensemble have different bases",
                got=f"{member} on {base.path}",
                expected=bases[0].path,
            )
    trunk = _base_of(members[0], load_config(members[0]), dtype=dtype)
    models = [
        adapters.attach_adapter(model, at) for model, at in zip(siblings(trunk, len(members)), members, strict=True)
    ]
    for model, member in zip(models, members, strict=True):
        adapters.apply_record(model.config, member)
    return models


def draw_head(model: Any, *, seed: int) -> None:
    """Draws a fresh score head as described in `load_scorer`."""
    weight = model.score.weight
    generator = torch.Generator().manual_seed(seed)
    deviation = 1.0 / math.sqrt(weight.shape[1] + 1)
    weight.data.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float32) * deviation)


def load_tokenizer(path: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, with a pad token that never ends a text.

    Its attribute `generation_eos_ids` has the generation config's EOS ids, for `resolve_template`.
    Raises ModelError if the folder has no tokenizer.
    """
    folder = resolve_folder(path, revision=revision)
    if members := members_of(folder):
        return load_tokenizer(members[0])
    if not has_tokenizer(folder):
        if adapters.is_adapter(folder):
            base = adapters.base_of(folder)
            return load_tokenizer(base.path, revision=base.revision)
        raise ModelError(
            "the model folder has no tokenizer",
            got=folder,
            expected="tokenizer.json",
            fix="copy the tokenizer's files into the folder, or save it there with tokenizer.save_pretrained",
        )
    if (folder / "config.json").exists():
        check_config(folder)
    # a tokenizer that comes with code: its tokenizer.json is equivalent, and no code has to run
    own_code = "auto_map" in read_json(folder, "tokenizer_config.json")
    if own_code and not (folder / "tokenizer.json").is_file():
        raise ModelError(
            "the tokenizer needs code from its own folder, and only this package's code runs",
            got=f"auto_map in {folder / 'tokenizer_config.json'}",
            expected="tokenizer.json",
            fix="use a copy of the model that has tokenizer.json",
        )
    kind: Any = PreTrainedTokenizerFast if own_code else AutoTokenizer
    try:
        with quiet():
            tokenizer = kind.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the libraries raise bare Exception for a broken tokenizer.json
        raise ModelError(f"the tokenizer cannot be read: {first_line(error)}", got=folder) from error
    check_growth(getattr(tokenizer, "backend_tokenizer", None), folder)
    tokenizer.generation_eos_ids = eos_ids_in(folder)
    choose_pad(tokenizer)
    return tokenizer


def fingerprint(
    model: torch.nn.Module | Mapping[str, Tensor], *, whole: Callable[[Tensor], Tensor] = Tensor.detach
) -> str:
    """SHA-256 over names, types, shapes and bytes of the weights, 16 hex digits. Tied weights are read once. One at a
    time is in memory, put together by `whole` if it is sharded."""
    named = dict(model) if isinstance(model, Mapping) else dict(model.named_parameters())
    digest = hashlib.sha256()
    for name in sorted(named):
        tensor = whole(named[name]).detach().contiguous().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def check_context(config: Any, max_length: int, *, whose: str = "the model") -> None:
    """Raises ModelError if a model's context is shorter than `max_length`. `whose` names the model."""
    text, keys = config.get_text_config(), ("max_position_embeddings", "n_positions")
    context = next((n for key in keys if isinstance(n := getattr(text, key, None), int)), None)
    if context is not None and context < max_length:
        raise ModelError(
            f"{whose}'s context is shorter than max_length",
            got=f"max_length {max_length}, context {context}",
            fix=f"--max-length {context}, or a model with a longer context",
        )


def _load(kind: Any, folder: Path, *, may_miss: set[str], **options: Any) -> PreTrainedModel:
    try:
        with quiet():
            model, info = kind.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, trust_remote_code=False, **options
            )
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise all kinds of errors for a configuration that is wrong
        raise ModelError(f"the model cannot be loaded: {first_line(error)}", got=folder) from error
    missing = sorted(set(info["missing_keys"]) - may_miss)
    if missing:
        raise ModelError(
            f"the folder lacks {len(missing)} of the model's weights, so they would be random",
            got=f"{folder}: {', '.join(missing[:3])}",
            fix="check that the folder's config.json belongs to its weights",
        )
    check_finite(model, folder)
    return model.eval()


def _ready(
    model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerBase | None, max_length: int | None
) -> PreTrainedModel:
    if tokenizer is not None:
        sync_tokens(model, tokenizer, fresh=fresh_tokens(folder, tokenizer))
    if max_length is not None:
        check_context(model.config, max_length)
    return model


def fresh_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Control tokens that were added to `tokenizer` and with which the model in `folder` was not trained."""
    new = list(getattr(tokenizer, "new_tokens", ()))
    if new and has_tokenizer(folder):  # a folder that was trained with them keeps its rows
        known = load_tokenizer(folder).get_vocab()
        new = [token for token in new if token not in known]
    return new


def _merged(folder: Path, config: Any, *, dtype: str) -> PreTrainedModel:
    """The base of an adapter folder, with the adapter merged. `config`: the adapter's."""
    return adapters.merge_adapter(_base_of(folder, config, dtype=dtype), folder)


def check_adapter(path: str | Path, *, revision: str | None = None) -> None:
    """Raises ModelError if an adapter in the folder, or of its ensemble, is for another base. Loads no model."""
    folder = resolve_folder(path, revision=revision)
    for at in members_of(folder) or [folder]:
        if adapters.is_adapter(at):
            _checked_base(at, load_config(at))


def _checked_base(folder: Path, config: Any) -> Path:
    """The folder of an adapter's base. `config`: the adapter's. Raises ModelError if it is for another base."""
    base = adapters.base_of(folder)
    base_folder = resolve_folder(base.path, revision=base.revision)
    check_weights(folder)
    check_weights(base_folder)
    is_causal = not is_classifier(config) or has_own_head(config)
    kind: Any = AutoModelForCausalLM if is_causal else AutoModelForSequenceClassification
    with quiet(), torch.device("meta"):
        skeleton = kind.from_config(config, trust_remote_code=False)
        if has_own_head(config):
            add_score_head(skeleton, config.num_labels)
    adapters.check_base(folder, base, base_folder, skeleton)
    return base_folder


def _base_of(folder: Path, config: Any, *, dtype: str) -> PreTrainedModel:
    """The base of an adapter folder, ready for the adapter. A wrong base is refused before weights are loaded."""
    base_folder = _checked_base(folder, config)
    if is_classifier(config):
        model = load_scorer(base_folder, dtype=dtype, num_labels=config.num_labels)
    else:
        model = load_policy(base_folder, dtype=dtype)
    if has_tokenizer(folder):
        sync_tokens(model, load_tokenizer(folder))
    return model


def _classifier_of(policy: PreTrainedModel, num_labels: int) -> PreTrainedModel:
    """The policy's trunk with a score head of random or zero weights."""
    if not has_classifier_class(policy.config):
        return add_score_head(policy, num_labels)
    config = copy.deepcopy(policy.config)
    config.num_labels = num_labels
    with quiet():
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
            config, dtype=policy.dtype, trust_remote_code=False
        )
    trunk_of(model).load_state_dict(trunk_of(policy).state_dict())
    return model.eval()


def _check_head(model: PreTrainedModel, folder: Path) -> None:
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear):
        raise ModelError(
            "this kind of model has no linear score head", got=f"{type(model).__name__} in {folder}", expected="score"
        )
    bias = getattr(model.config, "assent_score_bias", 0.0)
    if isinstance(bias, list) and len(bias) != model.config.num_labels:
        raise ModelError("there is not one bias for each score", got=f"{len(bias)} in {folder}",
                         expected=model.config.num_labels)  # fmt: skip


def load_config(path: str | Path, *, revision: str | None = None) -> Any:
    """The model's configuration, without weights. For an adapter folder it is the base's, with the adapter's changes.
    An ensemble of adapters has a label for each member.

    Raises ModelError.
    """
    folder = resolve_folder(path, revision=revision)
    if members := members_of(folder):
        config = load_config(members[0])
        config.num_labels = config.assent_ensemble_size = len(members)
        return config
    if not adapters.is_adapter(folder):
        check_config(folder)
        try:
            with quiet():
                return AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # the libraries raise all kinds of errors for values that they do not expect
            raise ModelError(f"config.json of the model cannot be used: {first_line(error)}", got=folder) from error
    base = adapters.base_of(folder)
    config = load_config(base.path, revision=base.revision)
    adapters.apply_record(config, folder)
    if adapters.is_scorer_adapter(folder) or has_own_head(config):
        config.num_labels = adapters.num_labels_of(folder)
        if not has_own_head(config):
            kind: Any = AutoModelForSequenceClassification._model_mapping[type(config)]
            config.architectures = [kind.__name__]
    return config


def merge_folder(path: str | Path, target: str | Path, *, dtype: str = "float32") -> dict[str, Any]:
    """Writes the base of an adapter folder, with the adapter merged, to `target`. Raises ModelError."""
    folder = resolve_folder(path)
    check_single_model(folder)
    if not adapters.is_adapter(folder):
        raise ModelError("this folder has no adapter, so there is nothing to merge", got=folder)
    if Path(target).exists() and (not Path(target).is_dir() or any(Path(target).iterdir())):
        raise ModelError("the folder is not empty", got=target, fix="give a new folder, or empty this one")
    load = load_scorer if is_classifier(load_config(folder)) else load_policy
    save_model(target, load(folder, dtype=dtype), load_tokenizer(folder))
    base = adapters.base_of(folder)
    return {"model_path": str(target), "base": base.path, "trained_in_4bit": base.in_4bit}
