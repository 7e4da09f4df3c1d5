"""The stage `gate` of a pipeline: lets it go on only if what was measured keeps the limits, and if somebody signed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assent.config.gate import GateConfig
from assent.config.loading import read_yaml
from assent.errors import ConfigError, DataError, FaultError
from assent.planning.gates import checks_of
from assent.runs.files import bytes_of, from_json, write_json
from assent.runs.progress import Progress
from assent.runs.reading import read_manifest

RECORD = "gate.json"


def gate(config: GateConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `gate` (path of gate.json), `lines`. Raises FaultError, and writes nothing, if a limit is not kept."""
    evaluation = None if config.evaluation is None else _read(config.evaluation)
    metrics: dict[str, Any] = {}
    if config.run is not None:
        metrics = (read_manifest(config.run).get("result") or {}).get("metrics", {})
    checks = checks_of(config, evaluation=evaluation, metrics=metrics)
    signed, refusal = _signature(config)
    lines = [check.line() for check in checks] + ([f"signed by {signed['signed_by']}"] if signed else [])
    failed = [check.line() for check in checks if not check.kept] + ([refusal] if refusal else [])
    if failed:
        name = Path(config.output_dir).name
        raise FaultError(
            f"gate {name} stops the pipeline: {'; '.join(failed)}",
            fix="improve what failed, or measure more prompts, and run it again; a limit is for whoever set it",
        )
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"passed": True, "checks": [check.as_dict() for check in checks], "signed": signed}
    write_json(folder / RECORD, record)
    return {"gate": str(folder / RECORD), "output_dir": config.output_dir, "lines": [f"gate {folder.name}:", *lines]}


def _read(path: str) -> dict[str, Any]:
    try:
        found = from_json(bytes_of(Path(path)))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no evaluation", got=error, expected="evaluation.json of assent eval") from None
    if not isinstance(found, dict) or "policies" not in found:
        raise DataError(f"{path} is no evaluation", expected="evaluation.json of assent eval")
    return found


def _signature(config: GateConfig) -> tuple[dict[str, str] | None, str | None]:
    """The signature, or why it does not hold."""
    if config.sign_off is None or config.model is None:
        return None, None
    from assent.models.folders import content_hash

    wanted = content_hash(config.model)
    if not Path(config.sign_off).is_file():
        return None, f"nobody has signed: write {config.sign_off} with signed_by, date and model: {wanted}"
    given = read_yaml(config.sign_off)
    missing = [name for name in ("signed_by", "date", "model") if not given.get(name)]
    if missing:
        raise ConfigError(f"{config.sign_off} lacks {', '.join(missing)}", expected="signed_by, date, model")
    if str(given["model"]) != wanted:
        return None, f"{config.sign_off} signs for another model ({given['model']!s:.12}…); this one is {wanted}"
    return {name: str(given[name]) for name in ("signed_by", "date", "model")}, None
