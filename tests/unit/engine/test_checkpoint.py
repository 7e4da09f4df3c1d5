"""Checkpoints are whole or absent, and a damaged one is never read."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from assent.engine import checkpoint, weights
from assent.engine.checkpoint import latest_verified, verified, write_checkpoint
from assent.engine.learner import Learner
from assent.engine.runtime import Runtime
from assent.errors import RunError, RunFolderError, StorageError
from tests.support.engine import Nll, Settings, TinyPolicy, make_groups, make_learner, state_of

GROUPS = make_groups(12)


def train(learner: Learner, steps: range) -> list[dict[str, float]]:
    logged = []
    for step in steps:
        metrics = learner.update(GROUPS[step * 2 : step * 2 + 2], Nll())
        logged.append({name: value for name, value in metrics.items() if not name.startswith("perf/")})
    return logged


def bits(learner: Learner) -> dict[str, torch.Tensor]:
    return {**weights.named_weights(learner.module), **state_of(learner)}


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("cut", range(1, 6))
def test_a_resumed_run_is_bit_identical(tmp_path: Path, cut: int) -> None:
    options = {"warmup_ratio": 0.3, "lr_scheduler_type": "cosine", "micro_batch_tokens": 40, "total_steps": 6}
    whole = make_learner(**options)
    logged = train(whole, range(6))
    first = make_learner(**options)
    start = train(first, range(cut))
    write_checkpoint(tmp_path, cut, learners={"model": first}, state={"numbers": [0.1, 1e-300], "name": "é"})
    second = make_learner(**options, seed=99)  # other weights: nothing may be left of them
    found = latest_verified(tmp_path)
    assert found is not None
    found.load_into({"model": second})
    assert found.state == {"numbers": [0.1, 1e-300], "name": "é"}
    assert (found.step, second.step) == (cut, cut)
    assert start + train(second, range(cut, 6)) == logged
    expected = bits(whole)
    assert all(torch.equal(value, expected[name]) for name, value in bits(second).items())
    assert (second.num_tokens, second.flops) == (whole.num_tokens, whole.flops)


def test_a_budget_that_was_halved_is_resumed_unless_another_is_given(tmp_path: Path) -> None:
    learner = make_learner(micro_batch_tokens=400)
    learner.budget.halve(GROUPS)
    halved = learner.budget.tokens
    learner.save(tmp_path)
    same, other = make_learner(micro_batch_tokens=400), make_learner(micro_batch_tokens=300)
    same.load(tmp_path)
    other.load(tmp_path)
    assert halved < 400
    assert (same.budget.tokens, other.budget.tokens) == (halved, 300)


def two_checkpoints(folder: Path) -> Learner:
    learner = make_learner()
    for step in (1, 2):
        train(learner, range(step - 1, step))
        write_checkpoint(folder, step, learners={"model": learner}, state={"step": step})
    return learner


NAMES = ["manifest.json", "state.json", "model/model.safetensors", "model/optimiser.safetensors", "model/state.json"]


@pytest.mark.parametrize("name", NAMES)
def test_every_damaged_file_is_detected_and_the_older_checkpoint_taken(tmp_path: Path, name: str) -> None:
    two_checkpoints(tmp_path)
    path = tmp_path / "checkpoints" / "step-2" / name
    whole = path.read_bytes()
    stored = sorted(p.relative_to(path.parents[len(Path(name).parts) - 1]).as_posix() for p in _files(tmp_path))
    assert stored == sorted(NAMES)
    damaged = [whole[: len(whole) // 2], b"", whole[:-1], whole + b" "]
    for position in {0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
        damaged.append(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
    for content in damaged:
        path.write_bytes(content)
        found = latest_verified(tmp_path)
        assert found is not None
        assert found.step == 1
        assert len(found.refused) == 1
        assert found.refused[0].startswith("step-2: ")
    path.unlink()
    assert latest_verified(tmp_path).step == 1  # type: ignore[union-attr]
    path.write_bytes(whole)
    assert latest_verified(tmp_path).step == 2  # type: ignore[union-attr]


def _files(folder: Path) -> list[Path]:
    return [p for p in (folder / "checkpoints" / "step-2").rglob("*") if p.is_file()]


def test_no_checkpoint_and_nothing_but_damage(tmp_path: Path) -> None:
    assert latest_verified(tmp_path) is None
    two_checkpoints(tmp_path)
    for path in (tmp_path / "checkpoints").glob("*/manifest.json"):
        path.unlink()
    with pytest.raises(RunFolderError, match="every checkpoint of the run is damaged") as caught:  # not from scratch
        latest_verified(tmp_path)
    assert "step-2: no manifest.json; step-1: no manifest.json" in str(caught.value)


def test_the_oldest_go_first_and_orphans_are_swept(tmp_path: Path) -> None:
    learner = make_learner()
    orphan = tmp_path / "checkpoints" / ".step-3.tmp"
    orphan.mkdir(parents=True)
    for step in (1, 2, 9, 10):
        write_checkpoint(tmp_path, step, learners={"model": learner}, state={}, save_total_limit=3)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-10", "step-2", "step-9"]
    # after a fall-back from damaged ones, a lower step is the newest there is
    write_checkpoint(tmp_path, 9, learners={"model": learner}, state={"again": 1}, save_total_limit=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-2", "step-9"]
    assert latest_verified(tmp_path).state == {"again": 1}  # type: ignore[union-attr]


def test_the_best_is_kept_for_as_long_as_a_checkpoint_names_it(tmp_path: Path) -> None:
    learner = make_learner()
    folder = tmp_path / "checkpoints"
    for step, best in ((1, None), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5)):
        write_checkpoint(tmp_path, step, learners={"model": learner}, state={"best": best}, best=best)
        if step == 5:  # the fourth may yet be fallen back to, and it names the second
            assert sorted(p.name for p in folder.iterdir()) == ["step-2", "step-4", "step-5"]
    assert sorted(p.name for p in folder.iterdir()) == ["step-5", "step-6"]
    write_checkpoint(tmp_path, 7, learners={"model": learner}, state={}, best=5)
    write_checkpoint(tmp_path, 8, learners={"model": learner}, state={}, best=5)
    assert sorted(p.name for p in folder.iterdir()) == ["step-5", "step-7", "step-8"]
    assert verified(tmp_path, 5).state == {"best": 5}
    # without its best one a checkpoint would not end as the run would have
    (folder / "step-5" / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunFolderError, match="every checkpoint"):
        latest_verified(tmp_path)
    with pytest.raises(RunError, match="step-5 is damaged"):
        verified(tmp_path, 5)


def test_other_models_are_refused(tmp_path: Path) -> None:
    learner = two_checkpoints(tmp_path)
    found = latest_verified(tmp_path)
    assert found is not None
    with pytest.raises(RunFolderError, match="holds other models"):
        found.load_into({"model": learner, "critic": learner})
    other = Learner(TinyPolicy(width=4), runtime=Runtime("cpu"), optim=Settings(), total_steps=1)
    with pytest.raises(RunFolderError, match=r"embedding\.weight \(17, 8\)"):
        other.load(found.path / "model")


def test_nothing_is_pickled(tmp_path: Path) -> None:
    two_checkpoints(tmp_path)
    for path in _files(tmp_path):
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert path.suffix == ".safetensors"


@pytest.mark.parametrize("failing_call", range(8))
def test_a_disk_that_fills_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    learner = two_checkpoints(tmp_path)
    calls = 0

    def full(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > failing_call:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "fsync", full)
    with pytest.raises(StorageError, match="last checkpoint is intact"):
        write_checkpoint(tmp_path, 3, learners={"model": learner}, state={})
    monkeypatch.undo()
    found = latest_verified(tmp_path)
    assert found is not None
    assert found.step in ((2, 3) if failing_call == 7 else (2,))
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_file_size_limit_met_by_the_writer_of_weights(tmp_path: Path) -> None:
    """The real thing, from inside safetensors' own writer: no file may grow beyond 2 kB."""
    learner = two_checkpoints(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        with pytest.raises(StorageError):
            write_checkpoint(tmp_path, 3, learners={"model": learner}, state={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert latest_verified(tmp_path).step == 2  # type: ignore[union-attr]


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: what a killed process leaves is the same, and fsync costs nothing."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def save_and_die(folder: Path, learner: Learner, *, step: int, after: int) -> bool:
    """Saves in a child process that is killed before its call number `after` of those that touch the disk.

    Returns whether the child was killed (False: there are no more such calls).
    """
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = after

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return call(*arguments, **options)

        return wrapped

    try:
        for place, name in ((checkpoint, "fsync"), (checkpoint, "sha256_of"), (checkpoint, "_prune")):
            setattr(place, name, deadly(getattr(place, name)))
        checkpoint.shutil.rmtree, Path.rename = deadly(shutil.rmtree), deadly(Path.rename)  # type: ignore
        weights.save_file = deadly(weights.save_file)
        write_checkpoint(folder, step, learners={"model": learner}, state={"step": step})
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("step", [2, 3], ids=["over an old one", "belongs to these weights"])
def test_killed_at_every_point_of_a_save(memory_path: Path, step: int) -> None:
    """SIGKILL before each call that touches the disk, in turn: there is always a verified checkpoint to go on from."""
    learner = two_checkpoints(memory_path / "before")
    taken = []
    for after in range(100):
        folder = memory_path / str(after)
        shutil.copytree(memory_path / "before", folder)
        killed = save_and_die(folder, learner, step=step, after=after)
        found = latest_verified(folder)
        assert found is not None
        assert found.state == {"step": found.step}
        taken.append(found.step)
        write_checkpoint(folder, 4, learners={"model": learner}, state={"step": 4})
        assert not list((folder / "checkpoints").glob(".*"))
        if not killed:
            break
    assert len(taken) > 15
    assert set(taken) == ({1, 2} if step == 2 else {2, 3})
    assert taken[-1] == step
