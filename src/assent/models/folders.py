"""Finds a model's files: in a local folder, or on the hub, from which safetensors and text files are downloaded."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from assent.errors import ConfigError, ModelError
from assent.models.folder_contents import (
    MAX_LABELS,
    check_config_text,
    check_safetensors,
    check_sizes,
    check_small_files,
    read_json,
)
from assent.models.weight_hashes import hash_of_file

__all__ = ["check_config", "check_weights", "content_hash", "members_of", "read_json", "resolve_folder"]

_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_WEIGHTS = "*.safetensors"
_FETCHED = ["*.json", _WEIGHTS, "*.model", "*.txt", "*.jinja", "*.tiktoken"]
_TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt", "*.tiktoken")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_MEMBER = re.compile(r"\w[\w.-]*")
MEMBERS = "assent_members.json"
"""The file that names an ensemble's members: adapters on one base, each a reward model by itself."""


def resolve_folder(path: str | Path, *, revision: str | None = None, weights: bool = True) -> Path:
    """The local folder of a model. A hub name is downloaded into the hub's cache, or found there without a network.

    weights   download them too; without them the folder has configuration and tokenizer

    Raises ModelError if the folder does not exist, the hub does not know the name or refuses access, or there is no
    network.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        _check_no_run(folder)
        check_small_files(folder)
        return folder
    if folder.is_file():
        raise ModelError("a model is a folder, not a file", got=path, fix="give the folder with config.json")
    if not isinstance(path, str) or not _HUB_NAME.match(path):
        raise ModelError(
            "the model folder does not exist",
            got=path,
            expected="a folder, or a hub name like owner/name",
            fix="check the path: a training command writes OUTPUT_DIR/model, and assent new-model makes a small model",
        )
    return _fetch(path, revision, weights=weights)


def _check_no_run(folder: Path) -> None:
    """Raises ModelError for a run's folder, and names the model or the completions inside."""
    if (folder / "run.json").is_file() and not any(
        (folder / f"{n}.json").is_file() for n in ("config", "adapter_config")
    ):
        inside = [name for name in ("model", "completions.jsonl") if (folder / name).exists()]
        raise ModelError(
            "this is the folder of a run, not of a model",
            got=folder,
            fix=f"give {folder / inside[0]}" if inside else "give the folder with config.json",
        )


def content_hash(path: str | Path, *, revision: str | None = None) -> str:
    """SHA-256 over names and bytes of a model's files: configuration, weights and tokenizer, with those of an adapter's
    base and of an ensemble's members.

    Raises ModelError if there is no such model.
    """
    from assent.models.adapters import base_of

    folder = resolve_folder(path, revision=revision)
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _FETCHED for file in folder.glob(pattern)}):
        digest.update(f"{file.name} {hash_of_file(file)}\n".encode())
    if (folder / "adapter_config.json").is_file():
        base = base_of(folder)
        digest.update(content_hash(base.path, revision=base.revision).encode())
    for member in members_of(folder):
        digest.update(content_hash(member).encode())
    return digest.hexdigest()


def check_revision(revision: str | None, *paths: str) -> None:
    """Raises ConfigError if a revision is given and all `paths` are local folders, which have no revisions."""
    if revision is not None and all(Path(path).expanduser().is_dir() for path in paths):
        raise ConfigError(
            "a revision has no effect on a local folder",
            got=f"--revision {revision} with {', '.join(paths)}",
            fix="leave it out, or name the model on the hub",
        )


def _fetch(name: str, revision: str | None, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = _FETCHED if weights else [pattern for pattern in _FETCHED if pattern != _WEIGHTS]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except GatedRepoError as error:
        raise ModelError(
            "the model is gated on the hub",
            got=name,
            fix=f"ask for access at https://huggingface.co/{name}, then run: hf auth login",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError("the hub has no such revision of the model", got=f"{name} at {revision}") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            "there is no such folder here and no such model on the hub (or it is private)",
            got=name,
            fix="check the name; for a private model run: hf auth login",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(
            "there is no such folder here, and the hub cannot be reached",
            got=name,
            expected="a local folder, or a network for a hub name",
            fix=f"on a machine with a network run: hf download {name} --local-dir FOLDER; then give that FOLDER",
        ) from error
    check_small_files(folder)
    return folder


def members_of(folder: Path) -> list[Path]:
    """The folders of an ensemble's members, in order; empty for the folder of a single model.

    Raises ModelError if one is missing.
    """
    names = read_json(folder, MEMBERS).get("members", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and _MEMBER.fullmatch(name) for name in names):
        raise ModelError(
            f"{MEMBERS} does not name the members of an ensemble",
            got=f"members {names!r:.60} in {folder}",
            expected="a list of names of folders inside it",
        )
    if len(names) > MAX_LABELS:
        raise ModelError(f"{MEMBERS} names too many members", got=len(names), expected=f"at most {MAX_LABELS}")
    members = [folder / name for name in names]
    if missing := [member for member in members if not (member / "adapter_config.json").is_file()]:
        raise ModelError("a member of the ensemble is missing", got=missing[0], expected="adapter_config.json")
    return members


def has_tokenizer(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES)


def check_weights(folder: Path) -> None:
    """Raises ModelError if the folder has no weights or only pickled ones, if a file of weights is damaged or outside
    the folder, or if config.json describes a far larger model."""
    if any(folder.glob("*.safetensors")) or any(folder.glob("*.safetensors.index.json")):
        check_safetensors(folder)
        if (folder / "config.json").is_file():
            check_sizes(folder)
        return
    pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
    if pickles:
        raise ModelError(
            "the model's weights are pickled, and unpickling runs any code in the file",
            got=f"{folder}: {', '.join(pickles[:3])}",
            expected="*.safetensors",
            fix="convert it once, if you trust the file: AutoModelForCausalLM.from_pretrained(FOLDER)"
            ".save_pretrained(NEW_FOLDER); for a hub model: https://huggingface.co/spaces/safetensors/convert",
        )
    raise ModelError("the model folder has no weights", got=folder, expected="*.safetensors")


def check_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises ModelError if there is none, if transformers has no language model of this kind,
    or if it asks for other code or for sizes beyond reason. No other file of the folder is opened."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    )

    config = read_json(folder, "config.json")
    if not config:
        raise ModelError(
            "the model folder has no config.json", got=folder, fix="give the folder of a transformers model"
        )
    kind = config.get("model_type")
    own_code = ", which needs code from its own folder" if "auto_map" in config else ""
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ModelError(
            f"the installed transformers does not know this kind of model{own_code}",
            got=f"model_type {kind!r} in {folder}",
            fix="install a version of transformers that has it; code from model folders is never run",
        )
    kinds = (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
    if not any(CONFIG_MAPPING[kind] in known for known in kinds):
        raise ModelError(
            f"transformers has no language model of this kind{own_code}",
            got=f"model_type {kind!r} in {folder}",
            expected="a causal language model, or a sequence classifier",
            fix="give another model; code from model folders is never run",
        )
    check_config_text(folder, config)
    return config
