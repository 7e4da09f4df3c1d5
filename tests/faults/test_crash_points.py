"""Every write, rename, fsync and removal of a checkpoint, of a run's folder and of a model's folder fails once.

The k-th of the calls of a run fails, for every k, in each of these ways (`tests/support/crash_points.py`): the disk is
full, the disk reports an error, the process is killed, the power goes and takes all that no fsync has kept. After each

- the error says that the disk is at fault (StorageError), and no other error comes in its place;
- the newest checkpoint that had been written whole is there, and whole;
- the same command ends the run, with the same bytes as a run that nothing happened to, and leaves no other file.

`little_run` is a run of the stages' own session on a model of a few hundred weights. A real run takes some of the same
points, spread over its calls.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from assent.cli import main
from assent.data.shards import Done, Shards
from assent.engine import checkpoint
from assent.engine.checkpoint import damage, latest_verified, write_checkpoint
from assent.errors import StorageError
from assent.models.saving import _replacing
from assent.runs import manifest
from tests.support.crash_points import Crash, Disk
from tests.support.engine import make_learner, torch_threads
from tests.support.little_run import little_run, outcome
from tests.support.stages import arguments, told, write_inputs

WAYS = ["ENOSPC", "EIO", "kill", "power"]
Action = Callable[[], object]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread; and nobody asks git and the packages for their versions, a thousand times."""
    monkeypatch.setattr(manifest, "git_revision", lambda: None)
    monkeypatch.setattr(manifest, "versions", dict)
    with torch_threads(1):
        yield


def befalls(root: Path, action: Action, *, at: int, how: str) -> str | None:
    """Does it while the call of this number fails. Returns that call; None if there are fewer."""
    with Disk(root, at=at, how=how) as disk:
        if how in ("kill", "power"):
            with suppress(Crash):
                action()
            assert disk.is_dead == (disk.failed is not None)
        else:
            with suppress(StorageError):
                action()
    return disk.failed


def undisturbed(root: Path, action: Action) -> list[str]:
    """Does it on a disk that works. Returns the calls."""
    with Disk(root) as disk:
        action()
    return disk.calls


def steps_of(folder: Path) -> dict[int, str | None]:
    """How each checkpoint is damaged."""
    return {int(path.name[5:]): damage(path) for path in (folder / "checkpoints").glob("step-*")}


@pytest.mark.parametrize("how", WAYS)
def test_a_little_run_survives_every_point(how: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole" / "run"
    undisturbed(whole, partial(little_run, whole))
    expected = outcome(whole)
    for at in range(1, 10_000):
        folder, kept = tmp_path / str(at) / "run", [0]
        failed = befalls(folder, partial(little_run, folder, kept), at=at, how=how)
        found = latest_verified(folder)
        assert (0 if found is None else found.step) >= kept[-1], failed
        undisturbed(folder, partial(little_run, folder))
        assert outcome(folder) == expected, failed
        shutil.rmtree(folder.parent)
        if failed is None:
            break
    assert at > 60


def write(folder: Path) -> None:
    """Checkpoint 4, which is as good as 3 and takes the place of 2; the best one is 1."""
    learner = make_learner(seed=4)
    write_checkpoint(folder, 4, learners={"model": learner}, state={"of": 4}, best=1)


@pytest.fixture(scope="module")
def three_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.jsonl").write_text('{"step": 4}\n')
    for step in (1, 2, 3):
        learner = make_learner(seed=step)
        write_checkpoint(folder, step, learners={"model": learner}, state={"of": step}, best=1)
    return folder


@pytest.mark.parametrize("again", [False, True], ids=["new", "in the place of a damaged one"])
@pytest.mark.parametrize("how", [*WAYS, "sigkill"])
def test_a_checkpoint_is_there_or_its_forerunner_is(
    how: str, again: bool, three_checkpoints: Path, tmp_path: Path
) -> None:
    for at in range(1, 10_000):
        folder = tmp_path / str(at) / "run"
        shutil.copytree(three_checkpoints, folder)
        if again:
            (folder / "checkpoints" / "step-4" / "model").mkdir(parents=True)
        if how == "sigkill":
            failed = killed(folder, at)
        else:
            failed = befalls(folder, partial(write, folder), at=at, how=how)
        found = latest_verified(folder)
        assert found is not None, failed
        assert found.step in ((3, 4) if failed else (4,)), failed
        assert found.state == {"of": found.step}
        assert steps_of(folder)[1] is None, failed  # the best one
        undisturbed(folder, partial(write, folder))
        assert steps_of(folder) == {1: None, 3: None, 4: None}, failed
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-1", "step-3", "step-4"]
        restored = make_learner(seed=9)
        found.load_into({"model": restored})
        assert restored.fingerprint() == make_learner(seed=found.step).fingerprint()
        shutil.rmtree(folder.parent)
        if failed is None:
            break
    assert at > 30


def killed(folder: Path, at: int) -> str | None:
    """Writes a checkpoint in a child, which is killed at the call of this number."""
    child = os.fork()
    if child == 0:
        with Disk(folder, at=at, how="sigkill"):
            write(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        shutil.rmtree(folder.with_name(f"{folder.name}.replaced"))  # the shim's own
        return f"call {at}"
    return None


@pytest.mark.parametrize("how", WAYS)
def test_a_models_folder_is_the_old_one_or_the_new_one(how: str, tmp_path: Path) -> None:
    root = tmp_path / "run"
    target = root / "model"
    tensors = {name: {"weight": torch.full((3,), value)} for name, value in (("old", 1.0), ("new", 2.0))}

    def save(name: str) -> None:
        with _replacing(target) as part:
            save_file(tensors[name], part / "model.safetensors")
            (part / "config.json").write_text(name)

    for at in range(1, 10_000):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        undisturbed(root, partial(save, "old"))
        failed = befalls(root, partial(save, "new"), at=at, how=how)
        if target.exists():  # between two renames a kill leaves neither; the run's record says that it is unfinished
            name = (target / "config.json").read_text()
            assert torch.equal(load_file(target / "model.safetensors")["weight"], tensors[name]["weight"]), failed
        else:
            assert how in ("kill", "power"), failed
        undisturbed(root, partial(save, "new"))
        assert (target / "config.json").read_text() == "new"
        assert [path.name for path in root.iterdir()] == ["model"], failed
        if failed is None:
            break
    assert at > 8


@pytest.mark.parametrize("how", WAYS)
def test_a_shard_is_whole_or_not_done(how: str, tmp_path: Path) -> None:
    def work(folder: Path, written: list[int]) -> None:
        shards = Shards.open(folder, [(0, 2), (2, 3)], digest=lambda first, last: f"{first}-{last}", facts={})
        for shard in shards.shards:
            with shards.claimed(shard):
                if not shards.is_done(shard):
                    shards.write(shard, Done([{"row": row} for row in range(shard.first, shard.last)]))
                    written.append(shard.number)

    for at in range(1, 10_000):
        folder = tmp_path / str(at)
        folder.mkdir()
        written: list[int] = []
        failed = befalls(folder, partial(work, folder, written), at=at, how=how)
        done = [] if (found := Shards.of(folder)) is None else [s for s in found.shards if found.seal(s) is not None]
        before = [found.path(shard).read_bytes() for shard in done] if found is not None else []
        assert set(written) <= {shard.number for shard in done}, failed
        undisturbed(folder, partial(work, folder, []))
        shards = Shards.of(folder)
        assert shards is not None
        assert [record["row"] for record in shards.records()] == [0, 1, 2], failed
        assert [shards.path(shard).read_bytes() for shard in done] == before
        names = {path.name for path in shards.folder.iterdir()}
        assert names == {"manifest.json", "00000.jsonl", "00001.jsonl", ".00000.lock", ".00001.lock"}, failed
        if failed is None:
            break
    assert at > 15


@pytest.mark.slow
def test_a_real_run_survives_some_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the end of its last checkpoint, while its model is written, and when run.json is finished."""
    inputs, whole = write_inputs(tmp_path), tmp_path / "whole" / "run"
    calls = undisturbed(whole, partial(main, arguments("sft", inputs, whole)))
    weights = (whole / "model" / "model.safetensors").read_bytes()
    last = {name: max(i for i, call in enumerate(calls, start=1) if call == name) for name in set(calls)}
    points = {
        "kill": last["rename checkpoints/step-4"],
        "power": last["fsync checkpoints"],
        "EIO": last["rename model"],
        "ENOSPC": last["rename run.json"],
    }
    for how, at in points.items():
        folder = tmp_path / how / "run"
        argv = arguments("sft", inputs, folder)
        if how == "ENOSPC":  # on a full disk no removal fails, so none is counted
            at -= sum(call.startswith("remove ") for call in calls[:at])
        with Disk(folder, at=at, how=how) as disk:
            assert main(argv) == 3
        assert disk.failed == calls[points[how] - 1]
        if how in ("EIO", "ENOSPC"):
            assert "cannot" in capsys.readouterr().err
        undisturbed(folder, partial(main, argv))
        assert (folder / "model" / "model.safetensors").read_bytes() == weights
        assert told(folder / "metrics.jsonl") == told(whole / "metrics.jsonl")


def test_a_checkpoint_without_its_fsyncs_is_lost(
    three_checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shim would show it: without them, the power takes what was renamed, or the bytes of a file."""
    fsync = checkpoint.fsync
    for kept, lost in ((lambda path: path.is_dir(), "damaged"), (lambda path: path.is_file(), None)):
        folder = tmp_path / str(lost)
        shutil.copytree(three_checkpoints, folder)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "fsync", lambda path, kept=kept: kept(path) and fsync(path))
            with Disk(folder, at=10_000, how="power") as disk:
                write(folder)
                disk.is_dead = True
        found = latest_verified(folder)
        assert found is not None
        assert found.step == 3
        assert (lost in str(steps_of(folder).get(4))) if lost else 4 not in steps_of(folder)
