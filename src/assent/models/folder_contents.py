"""What a model's folder may hold (law 13): ordinary files of plausible sizes, safetensors inside it, no code.

Torch-free. A folder may come from anybody. Each function here raises ModelError, which names file and reason, before
another library opens that file.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from assent.data import json_text
from assent.data.texts import RowError
from assent.errors import ModelError
from assent.runs.model_card import SCORE_FLAG, SCORE_HEAD

MAX_JSON_BYTES, MAX_TABLE_BYTES = 2**24, 2**28
"""Of a configuration, and of a file that lists a vocabulary or all weights."""
_TABLES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", ".model", ".tiktoken", ".index.json")
_SMALL = (".json", ".jinja", ".txt", ".model", ".tiktoken")
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format

MAX_LAYERS, MAX_LABELS, MAX_POSITIONS = 10_000, 100_000, 2**16
MAX_EOS, MAX_GROWTH = 1000, 1000
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_OTHER_WIDTHS = ("vocab_size", "intermediate_size", "n_inner", "ffn_dim")
_FREE_WEIGHTS = 2**26
"""Weights of one matrix that are never too many: 256 MB. A small model may leave an unused option at its default."""
_WEIGHTS_PER_BYTE = 16
"""No matrix has more weights than this for each byte of the folder's files, 1-bit weights included."""
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2,
          "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8}  # fmt: skip
_WHOLE = {"BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64"}


def check_small_files(folder: Path) -> None:
    """The folder's files are regular, and those of configuration and tokenizer not larger than such files are."""
    for entry in os.scandir(folder):
        if entry.name.endswith(".safetensors"):
            _check_regular(folder / entry.name)
        if entry.name.endswith(_SMALL):
            most = MAX_TABLE_BYTES if entry.name.endswith(_TABLES) else MAX_JSON_BYTES
            _check_regular(folder / entry.name, most=most)


def _check_regular(path: Path, *, most: int | None = None) -> os.stat_result:
    try:
        found = path.stat()
    except OSError as error:
        raise ModelError(f"a file of the model folder cannot be read: {error.strerror or error}", got=path) from None
    if stat.S_ISDIR(found.st_mode):
        raise ModelError("the model folder has a folder in a file's place", got=path)
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(
            "the model folder has a pipe, socket or device in a file's place", got=path, expected="an ordinary file"
        )
    if most is not None and found.st_size > most:
        raise ModelError(
            "a file of the model folder is larger than such a file can be",
            got=f"{path}: {found.st_size} bytes",
            expected=f"at most {most}",
        )
    return found


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of the folder; {} if there is none."""
    path = folder / name
    if not os.path.lexists(path):
        return {}
    _check_regular(path, most=MAX_TABLE_BYTES if name.endswith(_TABLES) else MAX_JSON_BYTES)
    try:
        found = json_text.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ModelError(f"{name} of the model folder is nested too deeply", got=folder) from None
    except RowError as error:
        raise ModelError(f"{name} of the model folder: {error.what}", got=folder, expected=error.expected) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{name} of the model folder cannot be read: {error}", got=folder) from error
    if not isinstance(found, dict):
        raise ModelError(f"{name} of the model folder is not a JSON object", got=folder)
    return found


def check_is_inside(folder: Path, path: Path) -> None:
    """`path` leads to an ordinary file inside `folder`. The hub's cache keeps files beside its folders, as links."""
    real, inside = path.resolve(), [folder.resolve()]
    snapshot = folder.resolve()
    if snapshot.parent.name == "snapshots":
        inside.append(snapshot.parent.parent / "blobs")
    if not any(real.is_relative_to(root) for root in inside):
        raise ModelError(
            "a weight file of the model lies outside its folder",
            got=f"{path}, which leads to {real}",
            expected=f"a file inside {folder}",
            fix="copy the file into the folder, if you know where it comes from",
        )
    _check_regular(path)


def check_safetensors(folder: Path) -> None:
    """All safetensors of the folder, and all files that an index names: inside, complete, with a header that fits."""
    for file in sorted(folder.glob("*.safetensors")):
        check_is_inside(folder, file)
        stored_tensors(file)
    for index in sorted(folder.glob("*.safetensors.index.json")):
        for name in sorted(_indexed(folder, index.name)):
            check_is_inside(folder, folder / name)
            stored_tensors(folder / name)


def _indexed(folder: Path, name: str) -> set[str]:
    """The files that an index names."""
    weight_map = read_json(folder, name).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelError("the index of the weights has no weight_map of names", got=folder / name)
    for file in set(weight_map.values()):
        if not file.endswith(".safetensors"):
            raise ModelError(
                "the index of the weights names a file that is not safetensors, and such a file can run code",
                got=f"{folder / name}: {file}",
                expected="*.safetensors",
                fix="convert the weights once, if you trust the file",
            )
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ModelError(
                "the index of the weights names a file outside the folder",
                got=f"{folder / name}: {file}",
                expected=f"a file inside {folder}",
            )
        if not _exists(folder / file):
            raise ModelError("a file that the index of the weights names is missing", got=folder / file)
    return set(weight_map.values())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is longer than any can be
        return False


def stored_tensors(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, from its header. Raises ModelError if header and size do not fit."""
    return {name: tuple(entry["shape"]) for name, entry in _header(path).items()}


def _header(path: Path) -> dict[str, Any]:
    size = _check_regular(path).st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise _damaged(path, f"{size} bytes, of which the header should take {length}")
        text = stream.read(length)
    try:
        header = json.loads(text)
        named = {name: entry for name, entry in header.items() if name != "__metadata__"}
        ends = [_end_of(name, entry) for name, entry in named.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"its header is not one: {type(error).__name__}: {str(error)[:100]}") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise _damaged(path, f"{size} bytes, but the header describes {expected}")
    return named


def _end_of(name: str, entry: Mapping[str, Any]) -> int:
    """Where a tensor ends in the file's data. Raises ValueError if its type, shape and place do not fit each other."""
    (begin, end), shape = entry["data_offsets"], entry["shape"]
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)) or begin > end:
        raise ValueError(f"the place or shape of {name} is not one")
    width = _BYTES.get(entry["dtype"])
    if width is not None and prod(shape) * width != end - begin:
        raise ValueError(f"{name} has {end - begin} bytes for the shape {shape} of {entry['dtype']}")
    return end


def _damaged(path: Path, got: str) -> ModelError:
    return ModelError(
        "a safetensors file is cut off or damaged",
        got=f"{path}: {got}",
        fix="download or write it again",
    )


def check_config_text(folder: Path, config: Mapping[str, Any]) -> None:
    """What config.json may say: nothing that makes transformers load code or weights from elsewhere, and sizes within
    reason. Call it before transformers reads the file."""
    named = config.get("architectures")
    if named is not None and not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
        raise ModelError("architectures in config.json are not names", got=f"{named!r:.60} in {folder}",
                         expected="a list of names of classes")  # fmt: skip
    for part in _parts(config):
        if name := next((name for name, value in part.items() if isinstance(value, float) and math.isnan(value)), None):
            raise ModelError("config.json has a value that is not a number", got=f"{name} NaN in {folder}")
        for name in ("attn_implementation", "_attn_implementation", "experts_implementation"):
            value = part.get(name)
            if any("/" in str(v) for v in (value.values() if isinstance(value, Mapping) else [value])):
                raise ModelError(
                    "config.json asks for code from a repository, and only this package's code runs",
                    got=f"{name} {value!r} in {folder}",
                    fix=f"remove {name} from config.json",
                )
        _check_size(folder, part, _LAYERS, MAX_LAYERS)
        _check_size(folder, part, ("num_labels",), MAX_LABELS)
        _check_size(folder, part, ("n_positions",), MAX_POSITIONS)
    check_own_fields(folder, config)
    says, has = config.get(SCORE_FLAG, False), (folder / SCORE_HEAD).exists()
    if says is not has:
        raise ModelError(
            "config.json and the folder do not agree on whether this is a reward model with a head of its own",
            got=f"{SCORE_FLAG} {json.dumps(says)} in config.json, {'a' if has else 'no'} {SCORE_HEAD} in {folder}",
            expected=f"{SCORE_FLAG} true and the file, or neither",
            fix="copy or download the whole folder again",
        )
    named = config.get("transformers_weights")
    if named is not None and (not isinstance(named, str) or "/" in named or not named.endswith(
        (".safetensors", ".safetensors.index.json")
    )):  # fmt: skip
        raise ModelError(
            "config.json names weights that are not safetensors of its folder",
            got=f"transformers_weights {named!r} in {folder}",
            fix="remove transformers_weights from config.json",
        )


def check_own_fields(folder: Path, fields: Mapping[str, Any]) -> None:
    """What this package writes into a configuration: a bias for each score, and the number of an ensemble's members."""
    bias, members = fields.get("assent_score_bias", 0.0), fields.get("assent_ensemble_size", 1)
    numbers = bias if isinstance(bias, list) else [bias]
    if not numbers or not all(type(n) in (int, float) and abs(n) < 1e30 for n in numbers):
        raise ModelError(
            "the bias of the scores is no number", got=f"assent_score_bias {bias!r:.60} in {folder}",
            expected="a number, or a list with one for each score",
        )  # fmt: skip
    if type(members) is not int or not 1 <= members <= MAX_LABELS:
        raise ModelError("the size of the ensemble is no number of members",
                         got=f"assent_ensemble_size {members!r:.60} in {folder}")  # fmt: skip


def _check_size(folder: Path, part: Mapping[str, Any], names: tuple[str, ...], most: int) -> None:
    for name in names:
        if isinstance(value := part.get(name), int) and value > most:
            raise ModelError("config.json has a size beyond reason", got=f"{name} {value} in {folder}",
                             expected=f"at most {most}")  # fmt: skip


def check_sizes(folder: Path) -> None:
    """config.json's layers and widths fit the weight files, and so does their type: whole numbers are weights of a
    quantised model only. Call it before the model is built."""
    files = {*folder.glob("*.safetensors")}
    files |= {
        folder / name for index in folder.glob("*.safetensors.index.json") for name in _indexed(folder, index.name)
    }
    headers = {file: _header(file) for file in files}
    tensors = sum(map(len, headers.values()))
    if "quantization_config" not in read_json(folder, "config.json"):
        for file, name, kind in ((f, n, e["dtype"]) for f, header in headers.items() for n, e in header.items()):
            if name.endswith((".weight", ".bias")) and kind in _WHOLE:
                raise ModelError("a weight of the model is stored as whole numbers, but config.json does not say that "
                                 "the model is quantised", got=f"{name} in {file}: {kind}")  # fmt: skip
    size = sum(file.stat().st_size for file in files)
    most = max(_FREE_WEIGHTS, _WEIGHTS_PER_BYTE * size)
    for part in _parts(read_json(folder, "config.json")):
        for name in _LAYERS:
            if isinstance(value := part.get(name), int) and value > tensors:
                raise _too_large(folder, f"{name} {value}", f"{tensors} tensors")
        width = next((value for name in _WIDTHS if isinstance(value := part.get(name), int)), 1)
        for name in (*_WIDTHS, *_OTHER_WIDTHS):
            if isinstance(value := part.get(name), int) and value * width > most:
                raise _too_large(folder, f"{name} {value} beside width {width}", f"{size} bytes")
        heads, of_one = part.get("num_attention_heads"), part.get("head_dim", 1)
        if isinstance(heads, int) and isinstance(of_one, int) and heads * of_one * width > most:
            raise _too_large(folder, f"num_attention_heads {heads}, head_dim {of_one}, width {width}", f"{size} bytes")


def _too_large(folder: Path, stated: str, stored: str) -> ModelError:
    return ModelError(
        "config.json describes a far larger model than the weights are",
        got=f"{stated}, but the weight files of {folder} have {stored}",
        fix="check that the folder's config.json belongs to its weights",
    )


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration, and those of its parts such as `text_config`."""
    yield config
    for value in config.values():
        if isinstance(value, Mapping) and value is not config:
            yield value


def eos_ids_in(folder: Path) -> frozenset[int]:
    """The ids with which generation ends, by generation_config.json or else config.json. Raises ModelError."""
    for name in ("generation_config.json", "config.json"):
        found = read_json(folder, name).get("eos_token_id")
        ids = [] if found is None else found if isinstance(found, list) else [found]
        if len(ids) > MAX_EOS or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
            raise ModelError(
                "the end-of-sequence ids of the model folder are not ids of tokens",
                got=f"eos_token_id {found!r:.60} in {folder / name}",
                expected=f"a whole number from 0, or a list of at most {MAX_EOS}",
            )
        if found is not None:
            return frozenset(ids)
    return frozenset()


def check_growth(backend: Any, folder: Path) -> None:
    """The tokenizer's normalizer and decoder make no text far longer than it was: a few of them in a row can."""
    for name in ("normalizer", "decoder"):
        part = getattr(backend, name, None)
        if part is not None and (growth := _growth(json.loads(part.__getstate__()))) > MAX_GROWTH:
            raise ModelError(
                f"the tokenizer's {name} makes texts far longer than they are",
                got=f"up to {growth} times, by {folder / 'tokenizer.json'}",
                expected=f"at most {MAX_GROWTH} times",
            )


def _growth(part: Mapping[str, Any]) -> int:
    written = part.get("content", part.get("prepend", ""))
    if part["type"] in ("Replace", "Prepend"):
        return len(written) + (part["type"] == "Prepend") or 1
    return prod(_growth(inner) for inner in part.get("normalizers", part.get("decoders", ())))


def check_finite(model: Any, folder: Path) -> None:
    """The loaded model has no weight that is NaN or infinite."""
    for name, weight in model.named_parameters():
        # one pass without a copy; a sum of finite numbers may overflow, so the entries decide
        if not weight.is_floating_point() or bool(weight.detach().sum().isfinite()):
            continue
        if number := int((~weight.detach().isfinite()).sum()):
            raise ModelError(
                "the model's weights are not finite, so every result would be NaN",
                got=f"{name} in {folder}: {number} of {weight.numel()} are NaN or infinite",
                fix="use an earlier copy of the model, or write it again",
            )


def first_line(error: BaseException) -> str:
    """The first line of a library's error, or its kind where it has no text."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def has_chat_template(folder: Path) -> bool:
    named = read_json(folder, "tokenizer_config.json").get("chat_template")
    return bool(named) or (folder / "chat_template.jinja").is_file()
