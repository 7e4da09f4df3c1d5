"""assent-doctor: the doctor's command line, with argparse."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from assent import __version__
from assent.commands.doctor_logs import doctor_of_logs
from assent.config.doctor import LogDoctorConfig
from assent.config.loading import parse_options
from assent.errors import AssentError
from assent.runs.files import to_json


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it and returns the exit status."""
    given: dict[str, Any] = vars(_parser().parse_args(argv))
    as_json = given.pop("json", False)
    try:
        document, lines, status = doctor_of_logs(parse_options(LogDoctorConfig, given, show=_flag))
    except AssentError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except ModuleNotFoundError as error:  # a format of data that takes pyarrow, a dataset of the hub
        print(f"error: this needs {error.name}\n  to do:    pip install assent, then: assent doctor", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(to_json({"command": "doctor", **document}) if as_json else "\n".join(lines))
    return status


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parser() -> argparse.ArgumentParser:
    """A flag for each option of LogDoctorConfig; values are checked there."""
    parser = argparse.ArgumentParser(prog="assent-doctor", description=LogDoctorConfig.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    for name, field in LogDoctorConfig.model_fields.items():
        text = (field.description or "").replace("%", "%%")
        kept: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS}  # an option that is not given is not set
        if name == "targets":
            parser.add_argument(name, nargs="*", **kept)
        elif field.annotation is bool:
            parser.add_argument(_flag(name), action="store_true", **kept)
        else:
            parser.add_argument(_flag(name), action="append" if name == "rules" else "store", **kept)
    return parser


if __name__ == "__main__":
    sys.exit(main())
