"""Law 12: what a row holds is trained on, refused, or reported.

`parse_row` refuses pictures and sound beside the text, and a judgement without which a bad answer would be imitated.
`Census` counts the other columns that no layout reads, and the keys of messages.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from assent.data import texts
from assent.data.texts import RowError
from assent.errors import DataError
from assent.types import PromptGroup, Text

_MEDIA = re.compile(
    r"(?:(?:chosen|rejected|prompt|completion|input|user|positive|negative)_)?"
    r"(?:images?|imgs?|pictures?|photos?|pixel_values|videos?|audios?|speech|waveforms?|input_(?:image|audio|video))"
    r"(?:_(?:paths?|urls?|files?|bytes|base64|b64|data|features|grid_thw))?"
)
"""Names of columns and of message keys that hold pictures, films or sound."""
_MEDIA_FILE = re.compile(r"\.(?:png|jpe?g|gif|webp|bmp|tiff?|wav|mp3|flac|ogg|opus|m4a|mp4|avi|mov|mkv|webm)$")
_DECISIVE = {"chosen", "rejected", "preferred", "dispreferred", "kto", "thumb", "thumbs", "desirable", "undesirable",
             "upvoted", "downvoted", "winner", "loser"}  # fmt: skip
"""A column whose name has one of these words judges an answer."""
_PRAISE = {"label", "labels", "preference", "feedback", "vote", "votes", "rating", "score", "reward", "good", "liked",
           "accepted", "approved", "acceptable", "correct", "helpful", "safe", "better", "passed", "pass", "success",
           "successful", "valid", "verified", "verdict", "quality", "upvotes"}  # fmt: skip
_BLAME = {"bad", "disliked", "harmful", "worse", "flagged", "toxic", "unsafe", "incorrect", "wrong", "failed"}
"""Columns of these names, also with `is_` or `human_` before, judge an answer where the value says that it is bad."""
_YES = {"true", "yes", "1"}
_NO = {"false", "no", "0", "-1", "bad", "down", "negative", "undesirable", "rejected", "reject", "dislike", "disliked",
       "thumbs_down", "thumbs down", "👎", "fail", "failed", "failure", "wrong", "incorrect", "poor"}  # fmt: skip
_LOSS_KEYS = {"loss", "loss_weight", "weight", "train", "training", "trainable", "train_on_turn", "is_trainable",
              "trainable_turn", "learn", "loss_mask"}  # fmt: skip
_MASK_KEYS = {"mask", "masked", "ignore", "ignored", "is_masked", "exclude_from_loss"}
"""Keys of a turn by which other trainers leave it out of the loss, where they are no or 0 (ms-swift's `loss`, OpenAI's
`weight`, axolotl's `train_on_turn`), and where they are yes or 1."""
_OFF = {"false", "no", "0", "0.0", "off"}
_ON = {"true", "yes", "1", "1.0", "on"}


def is_empty(value: object) -> bool:
    """None, blank text, NaN (pandas' missing value), and lists and objects of nothing else."""
    return not any(
        (isinstance(leaf, str) and leaf.strip()) or not (leaf is None or isinstance(leaf, str) or _is_nan(leaf))
        for leaf in _parts(value)
        if not isinstance(leaf, Mapping | list | tuple)
    )


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _parts(value: object) -> Iterator[object]:
    """A JSON value and all that is in it, without recursion: files may be nested as deep as Python reads them."""
    stack = [value]
    while stack:
        value = stack.pop()
        yield value
        if isinstance(value, Mapping):
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value


def refuse_columns(columns: Mapping[str, Any], *, demonstration: bool) -> None:
    """Raises RowError for content that no text holds, and for a judgement of a row that would be imitated.

    columns          the row's columns that its layout does not read
    demonstration    the row has completions and nothing that judges them
    """
    for name, value in columns.items():
        if is_media(name, value):
            raise _media_error(f"`{name}`", value)
        if demonstration and _judges(name, value):
            raise RowError(
                f"`{name}` is not read",
                f"`{name}` looks like a judgement of the answer, and without it every answer would be imitated",
                got=f"{name}: {texts.shorten(value, 60)}",
                expected="prompt, chosen, rejected; or prompt, completion, label (true or false)",
                fix="write the row in one of these layouts; if the column says something else, rename or drop it",
            )


def refuse_group(group: PromptGroup) -> None:
    """The same for a group that was made in Python, which no layout has read. Raises DataError."""
    try:
        refuse_columns(group.columns, demonstration=bool(group.completions) and group.preference is None)
        refuse_keys(group.prompt, group.completions)
    except RowError as error:
        where = group.source or "a row"
        raise DataError(f"{where}: {error.what}", got=error.got, expected=error.expected, fix=error.fix) from None


def refuse_keys(prompt: Text, completions: Iterable[Text]) -> None:
    """Raises RowError for pictures, films or sound in a message, and for an answer's turn that is not to be trained."""
    for k, text in enumerate((prompt, *completions)):
        for turn in () if isinstance(text, str) else text:
            for key, value in turn.extra.items():
                if is_media(key, value):
                    raise _media_error(f"`{key}` of a {turn.role} message", value)
                if k > 0 and turn.role == "assistant" and _is_left_out(key, value):
                    raise RowError(
                        "a turn to be left out of the loss",
                        f"`{key}` says that an assistant turn is not to be trained on, and Assent trains on every one",
                        got=f"{key}: {texts.shorten(value)}",
                        expected="a conversation whose assistant turns are all trained on",
                        fix="write the row as `prompt`, with the turns that are not trained on, and `completion`",
                    )


def is_media(name: str, value: object) -> bool:
    """Pictures, films or sound: by the name, or as `datasets` writes them ({bytes, path})."""
    if is_empty(value) or isinstance(value, bool | int):  # `image: false`, `images: 0`: a fact about the row
        return False
    return _MEDIA.fullmatch(name.lower().replace("-", "_")) is not None or _is_file(value)


def _is_file(value: object) -> bool:
    """Bytes, or {bytes, path} as `datasets` has it (its nulls are left out), or a content part that is not text."""
    if isinstance(value, list | tuple):
        return any(_is_file(item) for item in value if not isinstance(item, list | tuple))
    if not isinstance(value, Mapping):
        return isinstance(value, bytes)
    if value.keys() == {"path"}:
        return _MEDIA_FILE.search(str(value["path"]).lower()) is not None
    holds_any = any(name in _HOLDERS or _MEDIA.fullmatch(str(name).lower()) for name in value)
    return value.keys() in ({"bytes"}, {"bytes", "path"}) or (holds_any and value.get("type") in _MEDIA_TYPES)


_MEDIA_TYPES = ("image", "image_url", "input_image", "video", "video_url", "audio", "input_audio", "audio_url")
"""Types of content parts that are not text."""
_HOLDERS = ("url", "path", "data", "bytes", "source", "base64")
"""Keys under which such a part has its content."""


def _media_error(what: str, value: object) -> RowError:
    return RowError(
        "pictures, films or sound",
        f"{what} holds content that is not text, and Assent trains on text alone",
        got=texts.shorten(value),
        expected="rows whose whole content is text",
        fix="remove such rows; where the text makes sense without it, drop the column or the key",
    )


def _judges(name: str, value: object) -> bool:
    if is_empty(value):
        return False
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z0-9]+", " ", name).lower().split()
    if _DECISIVE & set(words):
        return True
    whole = "_".join(words).removeprefix("is_").removeprefix("human_")
    return (whole in _PRAISE and _is_bad(value, _NO, no=False, numbers=whole in ("label", "labels"))) or (
        whole in _BLAME and _is_bad(value, _YES, no=True, numbers=False)
    )


def _is_bad(value: object, words: set[str], *, no: bool, numbers: bool) -> bool:
    """Whether the value is one of the words or the boolean `no`; with `numbers`, also 0 or less (a thumb, a class)."""
    if isinstance(value, list | tuple):
        plain = (item for item in value if not isinstance(item, list | tuple))
        return any(_is_bad(item, words, no=no, numbers=numbers) for item in plain)
    if isinstance(value, str):
        return value.strip().lower() in words
    return value is no if isinstance(value, bool) else numbers and isinstance(value, int | float) and value <= 0


def _is_left_out(key: str, value: object) -> bool:
    """Whether a key of a turn says that the turn is not to be trained on."""
    for keys, words, number in ((_LOSS_KEYS, _OFF, 0), (_MASK_KEYS, _ON, 1)):
        if key in keys:
            said = value.strip().lower() in words if isinstance(value, str) else False
            return said or (isinstance(value, bool | int | float) and value == number)
    return False


class Census:
    """Counts, over the rows that are used, the columns that no layout reads and the keys of messages."""

    def __init__(self, groups: Iterable[PromptGroup] = ()) -> None:
        self.columns: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()
        """Keys beside role and content. A chat template reads them, or nothing does."""
        self.repeated = 0
        """Rows of raw text whose completions all begin with the whole prompt."""
        self.raw = 0
        for group in groups:
            self.add(group)

    def add(self, group: PromptGroup) -> None:
        self.columns.update(name for name, value in group.columns.items() if not is_empty(value))
        turns = (turn for text in (group.prompt, *group.completions) if not isinstance(text, str) for turn in text)
        self.keys.update({key for turn in turns for key, value in turn.extra.items() if not is_empty(value)})
        if isinstance(group.prompt, str) and group.completions:
            self.raw += 1
            self.repeated += repeats_prompt(group)


def in_rows(counts: Mapping[str, int]) -> str:
    """`id, meta (20 rows each), note (1 row)`: the names by their count, the most frequent first."""
    by_count: dict[int, list[str]] = {}
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        by_count.setdefault(count, []).append(name)
    return ", ".join(
        f"{', '.join(names)} ({texts.counted(count, 'row')}{' each' if len(names) > 1 else ''})"
        for count, names in by_count.items()
    )


_FEWEST_WORDS = 3


def repeats_prompt(group: PromptGroup) -> bool:
    """Whether the prompt, of three words at least, is the beginning of each completion too. Raw text only."""
    if not isinstance(group.prompt, str) or not group.completions:
        return False
    prompt = group.prompt.strip()
    return len(prompt.split()) >= _FEWEST_WORDS and all(
        isinstance(text, str) and text.lstrip().startswith(prompt) for text in group.completions
    )


def repetition(census: Census) -> str | None:
    """What to say of completions that repeat their prompt; None where none does."""
    if not census.repeated:
        return None
    return (
        f"the prompt stands twice, in `prompt` and at the beginning of the completions: {census.repeated} of "
        f"{texts.counted(census.raw, 'row')}"
    )


REPETITION_FIX = (
    "cut the prompt from the beginning of each completion; where the answer is to repeat it, write lists of messages"
)


def is_repeated_throughout(census: Census) -> bool:
    """More than half of the rows: the file was written so, it is not what some answers say."""
    return census.repeated > math.floor(census.raw / 2)
