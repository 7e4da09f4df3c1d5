"""assent update: trains a successor of the released model, and marks it if all gates pass. assent rollback: back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assent.commands.tools import report_on
from assent.config.update import RollbackConfig, UpdateConfig
from assent.errors import ModelError, UsageError
from assent.pipelines.runner import PipelineResult, run_pipeline
from assent.pipelines.update_file import Update, is_same, read_update
from assent.runs.files import bytes_of, from_json
from assent.runs.folder import lock_folder
from assent.runs.progress import Progress
from assent.runs.release import RELEASE, Mark, Release, read_mark, relative

PATIENCE_SECONDS = 600
"""How long to wait for another process that moves the mark: it hashes a model meanwhile."""


def update(config: UpdateConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `model`, `content_hash`, `release` (its number), `reference`, `gates`, `mark` (file), `report`, `lines`.

    Raises FaultError, and marks nothing, if a gate stops the pipeline.
    """
    from assent.models.folders import content_hash

    found = read_update(config.file, output_dir=config.output_dir, seed=config.seed, overrides=config.set)
    folder = Path(config.releases)
    if not Path(found.replaces).is_dir():
        raise ModelError("what is replaced is a model's folder", got=found.replaces, expected="a folder that is here")
    if Path(found.replaces).resolve().is_relative_to(found.plan.output_dir.resolve()):
        raise UsageError(
            "the model that is replaced lies in the folder of the update's own results",
            got=f"{found.replaces} in {found.plan.output_dir}",
            fix="give another --output-dir, and delete nothing there: it is what is released",
        )
    mark = read_mark(folder)
    before = content_hash(found.replaces)
    if mark is not None and _already(found, mark) is None:
        _check_is_released(found.replaces, before, mark)
    result = run_pipeline(found.plan, report=report_on, progress=progress, jobs=config.jobs)
    with lock_folder(folder, wait_seconds=PATIENCE_SECONDS, option="--releases"):
        mark = read_mark(folder)
        done = _already(found, mark)  # the mark may have moved while it ran
        if done is None:
            mark = _marked(found, result, mark, folder=folder, before=before, again=config.again)
        elif (content := content_hash(result.outputs[found.new.name]["model_path"])) != done.content_hash:
            raise _changed(Path(result.outputs[found.new.name]["model_path"]), content, done)
        assert mark is not None
        return _outputs(mark, result, is_new=done is None)


def _check_is_released(model: str, content: str, mark: Mark) -> None:
    """Raises UsageError if another model is released, ModelError if its files have changed."""
    current = mark.current
    path = mark.path_of(current)
    if not is_same(model, str(path)):
        raise UsageError(
            "the pipeline does not replace what is released",
            got=f"replaces: {model}",
            expected=f"release {current.number} of {mark.folder}: {path}",
            fix="plan again, from the run of that release",
        )
    if content != current.content_hash:
        raise _changed(path, content, current)


def _changed(path: Path, content: str, release: Release) -> ModelError:
    return ModelError(
        f"the files of {path} have changed since it was released",
        got=f"content hash {content:.16}…",
        expected=f"{release.content_hash:.16}… of release {release.number}, {release.date}",
        fix="put the files back from a copy",
    )


def _already(found: Update, mark: Mark | None) -> Release | None:
    """The release, where this pipeline has made what is released now, of the same model."""
    if mark is None or mark.current.pipeline is None or mark.current.parent is None:
        return None
    is_its = is_same(str(mark.folder / mark.current.pipeline), str(found.plan.output_dir))
    replaced = mark.path_of(mark.by_number(mark.current.parent))
    return mark.current if is_its and is_same(found.replaces, str(replaced)) else None


def _marked(
    found: Update, result: PipelineResult, mark: Mark | None, *, folder: Path, before: str, again: bool
) -> Mark:
    """The mark on the new model, written. Without one so far, the model that is replaced becomes the first release."""
    from assent.models.folders import content_hash

    if content_hash(found.replaces) != before:
        raise ModelError(
            f"{found.replaces} has changed while the update ran", fix="put it back, and give another --output-dir"
        )
    if mark is None:
        mark = Mark(folder, (), ()).with_release(Path(found.replaces), before)
    _check_is_released(found.replaces, before, mark)
    model = Path(result.outputs[found.new.name]["model_path"])
    content = content_hash(model)
    if content == before:
        raise UsageError("the new model is the released one: nothing was learned", got=model)
    rolled_back = mark.left_by_rollback(content)
    if rolled_back is not None and not again:
        raise UsageError(
            f"this very model was rolled back on {rolled_back}", got=model, fix="train another, or give --again"
        )
    gates = tuple(
        {"gate": stage.name, **check}
        for stage in found.gates
        for check in from_json(bytes_of(Path(result.outputs[stage.name]["gate"])))["checks"]
    )
    mark = mark.with_release(
        model, content, reference=found.reference_in(result.outputs), gates=gates,
        pipeline=relative(found.plan.output_dir, folder),
    )  # fmt: skip
    mark.write()
    return mark


def _outputs(mark: Mark, result: PipelineResult, *, is_new: bool) -> dict[str, Any]:
    current = mark.current
    assert current.parent is not None
    parent = mark.by_number(current.parent)
    tables = [line for outputs in result.outputs.values() for line in [*outputs.get("lines", []), ""]]
    lines = [*tables, f"reference in training: {current.reference}", *_line(mark, current, "is released")]
    if not is_new:
        lines.append(f"  it was already, since {current.date}")
    lines += [*_line(mark, parent, "is what it replaces; assent rollback returns to it"), f"report: {result.report}"]
    return {**_named(mark), "new": is_new, "reference": current.reference, "gates": list(current.gates),
            "report": str(result.report), "output_dir": str(result.output_dir), "lines": lines}  # fmt: skip


def _named(mark: Mark) -> dict[str, Any]:
    current = mark.current
    return {"model": str(mark.path_of(current)), "content_hash": current.content_hash, "release": current.number,
            "parent": current.parent, "mark": str(mark.folder / RELEASE)}  # fmt: skip


def _line(mark: Mark, release: Release, what: str) -> list[str]:
    return [f"release {release.number} {what}:", f"  {mark.path_of(release)} ({release.content_hash:.16}…)"]


def rollback(config: RollbackConfig) -> dict[str, Any]:
    """Outputs: `model`, `content_hash`, `release`, `parent`, `from` (the release that was left), `mark`, `lines`.

    Raises UsageError where there is no mark or no parent, ModelError if the parent's files have changed.
    """
    from assent.models.folders import content_hash

    folder = Path(config.folder)
    if read_mark(folder) is None:  # before the lock: a folder of something else gets none
        raise UsageError(f"nothing is released in {folder}", expected=f"a folder with {RELEASE}, from assent update")
    with lock_folder(folder, wait_seconds=PATIENCE_SECONDS, option="FOLDER"):
        mark = read_mark(folder)
        assert mark is not None
        left = mark.current
        mark = mark.rolled_back()
        path = mark.path_of(mark.current)
        if (content := content_hash(str(path))) != mark.current.content_hash:
            raise _changed(path, content, mark.current)
        mark.write()
    lines = [*_line(mark, left, "is rolled back; its files stay"), *_line(mark, mark.current, "is released again")]
    return {**_named(mark), "from": left.number, "lines": [*lines, "load it again where it is served"]}
