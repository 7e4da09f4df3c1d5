"""Adapters through PEFT: LoRA (Hu et al., arXiv:2106.09685), DoRA (arXiv:2402.09353), QLoRA (arXiv:2305.14314).

The adapter is inside the transformers model's layers, so everything that reads the model reads it too: all attention
tiers, the chunked head, the sampler. With the adapter switched off, the same weights are the policy's start.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from assent.config.options import AdapterOptions
from assent.errors import ConfigError, ModelError
from assent.models.adapter_contents import check_adapter_files
from assent.models.folder_contents import check_finite, check_own_fields, first_line, read_json, stored_tensors
from assent.models.weight_hashes import content_of

CONFIG, RECORD = "adapter_config.json", "assent_adapter.json"
_PREFIX = "base_model.model."
_TRAINED = (".lora_", ".modules_to_save.")
"""Parts of the names of an adapter's weights. The names of its base's weights have none of them."""

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
"""PEFT imports bitsandbytes, which says on a CPU that its faster kernel for 4 bits is missing, whatever is trained."""


@dataclass(frozen=True, slots=True)
class Base:
    """The model that an adapter was trained on. `content`: see `content_of`; "" if it is not known yet."""

    path: str
    revision: str | None = None
    content: str = ""
    in_4bit: bool = False


def is_adapted(model: nn.Module) -> bool:
    """Whether `model` (or the transformers model inside an AlignmentModel) has an adapter."""
    return hasattr(getattr(model, "hf", model), "get_base_model")


def add_adapter(
    model: PreTrainedModel, options: AdapterOptions, *, base: Base, seed: int, new_rows: bool = False
) -> PreTrainedModel:
    """`model` with a fresh adapter, drawn with `seed`, which changes nothing yet. Only the adapter is trainable.

    A score head is trained in full as one of PEFT's `modules_to_save`; with `new_rows` so are the input and output
    embeddings. Raises ModelError for a target that the model does not have, or that cannot have an adapter.
    """
    from peft import LoraConfig, get_peft_model

    is_scorer = hasattr(model, "score")
    if options.lora_target_modules is not None:
        _check_targets(model, options.lora_target_modules)
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False)) and not is_scorer
    config = LoraConfig(
        r=options.lora_r,
        lora_alpha=alpha_of(options),  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=options.lora_target_modules or "all-linear",
        use_dora=options.use_dora,
        use_rslora=options.use_rslora,
        modules_to_save=_embeddings(model, first_only=tied or is_scorer) if new_rows else None,
        ensure_weight_tying=new_rows and tied,
        task_type="SEQ_CLS" if is_scorer else "CAUSAL_LM",
        revision=base.revision,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tied weights, which are handled above
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base.path
    adapted.assent_base = base
    return adapted


def alpha_of(options: AdapterOptions) -> float:
    return 2.0 * options.lora_r if options.lora_alpha is None else options.lora_alpha


def describe(model: PreTrainedModel, options: AdapterOptions) -> dict[str, Any]:
    """The trained part of an adapted model, for the log and run.json."""
    layers = sorted({name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name})
    return {
        "kind": f"{'rs' * options.use_rslora}{'DoRA' if options.use_dora else 'LoRA'}",
        "lora_r": options.lora_r,
        "lora_alpha": alpha_of(options),
        "layers": len(layers),
        "target_modules": sorted({layer.rsplit(".", 1)[-1] for layer in layers}),
        "modules_to_save": sorted(
            {name.split(".modules_to_save.")[0].rsplit(".", 1)[-1] for name, _ in _saved_whole(model)}
        ),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _saved_whole(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, p) for name, p in model.named_parameters() if ".modules_to_save." in name]


def _embeddings(model: PreTrainedModel, *, first_only: bool) -> list[str]:
    """Names of the input and output embeddings. Only the first of tied ones, to whose copy PEFT ties the other, and of
    a scorer's, whose output embeddings nothing reads."""
    modules = [model.get_input_embeddings(), None if first_only else model.get_output_embeddings()]
    return [name for name, module in model.named_modules() if any(module is m for m in modules)]


def _check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    named = dict(model.named_modules())
    heads = {"score", "classifier"}
    linear = sorted({name.rsplit(".", 1)[-1] for name, m in named.items() if isinstance(m, nn.Linear)} - heads)
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False) and model.get_output_embeddings()
    ends = (model.get_input_embeddings(), model.get_output_embeddings()) if tied else ()
    for target in targets:
        found = [module for name, module in named.items() if f".{name}".endswith(f".{target}")]
        if not found or target in heads:
            raise ModelError(
                "the score head is trained in full and gets no adapter"
                if target in heads
                else "the model has no layer of this name for an adapter",
                got=f"--lora-target-modules {target}",
                expected=f"linear layers: {', '.join(linear)}",
            )
        if any(module is end for module in found for end in ends):
            raise ModelError(
                "an adapter on one of two tied embeddings cannot be merged, because it would change the other too",
                got=f"--lora-target-modules {target}; tie_word_embeddings is true",
                fix="leave it out",
            )


@contextmanager
def adapter_off(module: nn.Module) -> Iterator[None]:
    """Inside the block an adapted AlignmentModel computes what its base does. Nothing else changes."""
    model: Any = getattr(module, "hf", module)
    with model.disable_adapter():
        yield


def plain_name(name: str) -> str | None:
    """A weight's name in the model without the adapter; None for the adapter's own weights."""
    if any(part in name for part in _TRAINED):
        return None
    name = name.removeprefix(_PREFIX).replace(".original_module.", ".")
    return name.replace(".base_layer", "")  # twice in a row where two of a module's parameters have adapters


def base_weights(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base's weights among an adapted model's weights, by their names in the base."""
    return {plain: tensor for name, tensor in named.items() if (plain := plain_name(name)) is not None}


def save_adapter(folder: Path, model: Any, *, target: Path, state_dict: Mapping[str, Tensor] | None) -> None:
    """Writes PEFT's files, the generation config, and `assent_adapter.json`, which names the adapter's base.

    The files are written to `folder`, which will be renamed to `target`. There is no config.json, because transformers
    would take the folder for a whole model.
    """
    model.save_pretrained(
        folder, save_embedding_layers=False, **({} if state_dict is None else {"state_dict": dict(state_dict)})
    )
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    base: Base = model.assent_base
    record: dict[str, Any] = {"base": base.path, "base_content": base.content, "trained_in_4bit": base.in_4bit}
    if Path(base.path).is_dir():
        record["base_relative"] = Path(os.path.relpath(base.path, target)).as_posix()
    config = model.get_base_model().config.to_dict()
    record["config"] = {name: value for name, value in config.items() if name.startswith("assent_")}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if (generation := getattr(model.get_base_model(), "generation_config", None)) is not None:
        generation.save_pretrained(folder)


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def base_of(folder: Path) -> Base:
    """The base that an adapter folder names. If it is gone, the one at the same path relative to the folder.

    Raises ModelError.
    """
    adapter, record = read_json(folder, CONFIG), read_json(folder, RECORD)
    path = adapter.get("base_model_name_or_path")
    if not path or not isinstance(path, str):
        raise ModelError("the adapter names no base model", got=folder, expected="base_model_name_or_path")
    if "\0" in path:
        raise ModelError("the adapter's base is no path", got=f"{path!r:.60} in {folder}")
    if (Path(path) / CONFIG).is_file() and folder.resolve() in _bases(Path(path)):
        raise ModelError("the adapter is its own base", got=f"{folder} on {path}", expected="another model")
    beside = record.get("base_relative")
    for name, value in (("base_relative", beside or ""), ("base_content", record.get("base_content", ""))):
        if not isinstance(value, str):
            raise ModelError(f"{name} of the adapter's record is not text", got=f"{value!r:.60} in {folder / RECORD}")
    if not isinstance(revision := adapter.get("revision"), str | None):
        raise ModelError("the revision of the adapter's base is not text", got=f"{revision!r:.60} in {folder}")
    if beside and not Path(path).is_dir() and (folder / beside).is_dir():
        path = str(folder / beside)
    return Base(path, revision, record.get("base_content", ""), record.get("trained_in_4bit", False))


def _bases(folder: Path) -> list[Path]:
    """The folder of an adapter, and the folders that it builds on."""
    chain: list[Path] = []
    while (folder / CONFIG).is_file() and folder.resolve() not in chain:
        chain.append(folder.resolve())
        folder = Path(str(read_json(folder, CONFIG).get("base_model_name_or_path")))
    return chain


def is_scorer_adapter(folder: Path) -> bool:
    return read_json(folder, CONFIG).get("task_type") == "SEQ_CLS"


def apply_record(config: Any, folder: Path) -> None:
    """Copies what the adapter's run recorded, such as a reward model's bias, into the model's configuration."""
    fields = read_json(folder, RECORD).get("config", {})
    if not isinstance(fields, dict) or not all(name.startswith("assent_") for name in fields):
        raise ModelError(
            "the adapter's record sets more than its own fields of the configuration",
            got=f"config {fields!r:.60} in {folder / RECORD}",
            expected="names that begin with assent_",
        )
    check_own_fields(folder, fields)
    for name, value in fields.items():
        setattr(config, name, value)


def num_labels_of(folder: Path) -> int:
    """Rows of the score head in a reward model's adapter. Raises ModelError if it has none."""
    for name, shape in shapes_of(folder).items():
        if name.endswith(("score.weight", "classifier.weight")):
            return shape[0]
    raise ModelError("the reward model's adapter has no score head", got=folder, expected="score in modules_to_save")


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a folder's safetensors. Reads no weights."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        shapes |= stored_tensors(file)
    return shapes


def check_base(folder: Path, base: Base, base_folder: Path, skeleton: nn.Module) -> None:
    """Raises ModelError if the adapter in `folder` is for another base. `skeleton`: the base's modules, no weights."""
    modules, parameters = dict(skeleton.named_modules()), dict(skeleton.named_parameters(remove_duplicate=False))
    for name, shape in shapes_of(folder).items():
        layer, is_lora, kind = name.removeprefix(_PREFIX).partition(".lora_")
        expected = tuple(parameters[layer].shape) if layer in parameters else None
        if is_lora:
            # an adapter on a module's parameters (stacked experts) stands around the module
            module = modules.get(layer.replace(".base_layer", ""))
            shapes = [] if module is None else [tuple(p.shape) for p in module.parameters(recurse=False)]
            expected = next((found for found in shapes if len(found) > 1), None)
            width = {"A": shape[-1], "B": shape[0]}.get(kind[0])  # A (r, in), B (out, r)
            fits = expected is not None and (width is None or any(width in found for found in shapes))
        else:  # saved whole; only the width is compared, because an embedding may have more rows
            fits = expected is not None and shape[1:] == expected[1:]
        if not fits:
            raise ModelError(
                "the adapter is for another base, because its weights do not fit this one",
                got=f"{name} {shape} in {folder}",
                expected=f"a layer of {base_folder}" + (f", which has {expected} there" if expected else ""),
                fix="give the base that the adapter was trained on",
            )
    if base.content and (found := content_of(base_folder)) != base.content:
        raise ModelError(
            "the adapter is for another base, whose weights have the same shapes and other values",
            got=f"{base_folder}: content {found}",
            expected=f"content {base.content}, on which {folder} was trained",
            fix=f"restore that base; to use these weights anyway, delete {folder / RECORD}",
        )


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """`model` with the adapter in `folder` added to its weights. Raises ModelError."""
    adapted: Any = attach_adapter(model, folder)
    merged: PreTrainedModel = adapted.merge_and_unload()
    apply_record(merged.config, folder)
    return merged.requires_grad_(True).eval()


def attach_adapter(model: PreTrainedModel, folder: Path, *, trained: bool = False) -> PreTrainedModel:
    """`model` with the adapter in `folder` inside its layers. Raises ModelError."""
    from peft import PeftModel, get_peft_model_state_dict

    check_adapter_files(folder, read_json(folder, CONFIG))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # missing weights raise an error below
            adapted: Any = PeftModel.from_pretrained(model, str(folder), is_trainable=trained, trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as error:  # PEFT raises all kinds of errors for a configuration that is wrong
        raise ModelError(f"the adapter does not fit its base: {first_line(error)}", got=folder) from error
    missing = sorted(get_peft_model_state_dict(adapted, save_embedding_layers=False).keys() - shapes_of(folder).keys())
    if missing:
        raise ModelError(
            f"the adapter folder lacks {len(missing)} of the adapter's weights",
            got=f"{folder}: {', '.join(missing[:3])}",
            fix="check that adapter_config.json belongs to these weights",
        )
    check_finite(adapted, folder)
    return adapted.eval()


def check_quantisation(device: torch.device) -> None:
    """Raises ConfigError if weights cannot be held in 4 bits here."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "load_in_4bit needs the package bitsandbytes", got="it is not installed", fix="pip install bitsandbytes"
        )
    if device.type != "cuda":
        raise ConfigError(
            "load_in_4bit needs CUDA", got=f"device {device}", fix="leave it out; LoRA itself runs on any device"
        )


def quantisation(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Options of `from_pretrained`: NF4 with double quantisation (arXiv:2305.14314, §3), heads not quantised."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "score"],
    )
    return {"quantization_config": config, "device_map": {"": str(device)}}
