"""What a judge decides, in words: a criterion, and perhaps principles. And the fence around what it judges."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assent.config.loading import read_yaml
from assent.errors import ConfigError, DataFileNotFoundError
from assent.types import Text

CRITERION = "which answer serves the person who asked better: correct, helpful, harmless and to the point"
FIELDS = ("criterion", "principles")


@dataclass(frozen=True, slots=True)
class Rubric:
    """`criterion` completes "Decide …"; `principles` are sentences that hold in every decision."""

    criterion: str = CRITERION
    principles: tuple[str, ...] = ()

    def text(self) -> str:
        listed = "".join(f"\n{number}. {principle}" for number, principle in enumerate(self.principles, start=1))
        return self.criterion.rstrip(". ") + (f". Hold to these principles:{listed}\n" if listed else ".")


def read_rubric(path: str) -> Rubric:
    """A rubric from a file: YAML with `criterion` and `principles`, or any other suffix: the criterion as text.

    Raises ConfigError for an empty file, unknown keys, and values that are not text.
    """
    file = Path(path)
    if not file.is_file():
        raise DataFileNotFoundError(f"there is no rubric {path}", fix="give a text file, or YAML with criterion: …")
    if file.suffix not in (".yaml", ".yml"):
        return _checked(path, {"criterion": file.read_text(encoding="utf-8")})
    return _checked(path, read_yaml(file))


def _checked(path: str, given: Mapping[str, Any]) -> Rubric:
    criterion, principles = given.get("criterion", CRITERION), given.get("principles", [])
    is_text = isinstance(criterion, str) and isinstance(principles, list)
    if unknown := sorted(set(given) - set(FIELDS)):
        raise ConfigError(f"{path} has unknown keys", got=", ".join(unknown), expected=", ".join(FIELDS))
    if not given or not is_text or not all(isinstance(one, str) and one.strip() for one in (criterion, *principles)):
        raise ConfigError(
            f"{path} is not a rubric",
            got=repr(dict(given))[:200],
            expected="criterion: a sentence that completes “Decide …”; principles: a list of sentences",
        )
    return Rubric(" ".join(criterion.split()), tuple(" ".join(one.split()) for one in principles))


def fenced(*parts: tuple[str, str]) -> tuple[str, str]:
    """The beginning of the separating lines, and the parts (title, text) between them.

    The beginning is a hash of all texts. A text cannot contain a hash of itself, and whoever wrote one of them does not
    know the others, so no text can pass for a separating line.
    """
    mark = "=== " + hashlib.sha256("\0".join(text for _, text in parts).encode()).hexdigest()[:16]
    lines = [line for title, text in parts for line in (f"{mark} {title}", text)]
    return mark, "\n".join([*lines, f"{mark} end"])


def written(prompt: Text) -> str:
    """A prompt as text; the turns of a conversation after their roles."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{m.role}: {m.content}" for m in prompt)
