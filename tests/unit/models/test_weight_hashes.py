"""What is kept of weight files' hashes, and when it is believed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from assent.models import weight_hashes
from assent.models.folders import content_hash
from assent.models.weight_hashes import content_of, hash_of_file
from assent.runs.files import sha256_of, user_cache

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}


@pytest.fixture(autouse=True)
def anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and a process that has hashed nothing."""
    monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "cache"))
    new_process()


def new_process() -> None:
    weight_hashes._hashed.clear()
    weight_hashes._content_of.cache_clear()


def folder_of(path: Path, *parts: dict[str, torch.Tensor]) -> Path:
    path.mkdir()
    for number, part in enumerate(parts):
        save_file(part, path / f"part-{number}.safetensors")
    return path


def kept_files() -> list[Path]:
    return sorted((user_cache() / "contents").glob("*.json"))


def tensors_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose tensors are read from here on."""
    read: list[str] = []
    original = weight_hashes.safe_open

    def counting(file: Path, **options: str) -> object:
        read.append(file.name)
        return original(file, **options)

    monkeypatch.setattr(weight_hashes, "safe_open", counting)
    return read


def test_the_content_does_not_depend_on_the_files_split(tmp_path: Path) -> None:
    whole = folder_of(tmp_path / "whole", WEIGHTS)
    split = folder_of(tmp_path / "split", {"b": WEIGHTS["b"]}, {"a": WEIGHTS["a"]})
    assert content_of(whole) == content_of(split)
    assert content_of(whole) != content_of(folder_of(tmp_path / "other", {**WEIGHTS, "b": torch.zeros(4)}))


def test_a_second_process_that_hashed_the_bytes_reads_no_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder_of(tmp_path / "model", WEIGHTS) / "part-0.safetensors"
    assert hash_of_file(file) == sha256_of(file)
    content = content_of(file.parent)
    new_process()
    read = tensors_read(monkeypatch)
    content_hash(file.parent)  # as at each run's start
    assert content_of(file.parent) == content
    assert not read
    new_process()  # and one that does not know the bytes reads them
    assert content_of(file.parent) == content
    assert read


def test_other_bytes_have_another_content_though_time_and_size_are_the_same(tmp_path: Path) -> None:
    file = folder_of(tmp_path / "model", WEIGHTS) / "part-0.safetensors"
    hash_of_file(file)
    before, status = content_of(file.parent), file.stat()
    save_file({**WEIGHTS, "b": torch.zeros(4)}, file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    new_process()
    hash_of_file(file)
    assert content_of(file.parent) != before
    assert len(kept_files()) == 2


@pytest.mark.parametrize("damage", ["cut", "another content", "another's name", "no JSON object"])
def test_a_damaged_file_is_not_believed(damage: str, tmp_path: Path) -> None:
    file = folder_of(tmp_path / "model", WEIGHTS) / "part-0.safetensors"
    hash_of_file(file)
    content = content_of(file.parent)
    [kept] = kept_files()
    text = kept.read_text()
    if damage == "another's name":
        other = folder_of(tmp_path / "other", {"a": torch.zeros(1)}) / "part-0.safetensors"
        hash_of_file(other)
        content_of(other.parent)
        [text] = [path.read_text() for path in kept_files() if path != kept]
    changed = {
        "cut": text[:-9],
        "another content": json.dumps({**json.loads(text), "content": "0" * 16}),
        "another's name": text,
        "no JSON object": "7",
    }
    kept.write_text(changed[damage])
    new_process()
    hash_of_file(file)
    assert content_of(file.parent) == content


def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    file = folder_of(tmp_path / "model", WEIGHTS) / "part-0.safetensors"
    hash_of_file(file)
    assert content_of(file.parent) == content_of(folder_of(tmp_path / "same", WEIGHTS))
