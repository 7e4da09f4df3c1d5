"""What tokenizing did to the rows: used, shortened, refused and why. Nothing is dropped silently."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field, fields

from assent.data.texts import counted, some
from assent.models.cutting import RowText
from assent.models.truncation import Fitted, RowIds

WIDTH = 80


@dataclass(slots=True)
class TokenReport:
    """Counts of rows (groups), unless a name says otherwise. Lists hold the rows' sources."""

    max_length: int
    used: int = 0
    shortened: int = 0
    prompts_shortened: int = 0
    turns_lost: int = 0
    prompt_tokens_lost: int = 0
    completions_cut: int = 0
    completion_tokens_lost: int = 0
    refused: dict[str, list[str]] = field(default_factory=dict)
    boundary_checked: int = 0
    boundary_differs: list[str] = field(default_factory=list)
    completions: int = 0
    eos_appended: int = 0
    """Completions (in conversations) after which the template writes no EOS."""
    tails_dropped: dict[str, int] = field(default_factory=dict)
    """Texts that templates wrote after EOS -> the number of completions."""
    literal_controls: int = 0
    """Rows whose contents spell a control token, which stays text."""
    raw_controls: int = 0
    """Rows whose raw strings spell a control token, which is read as one."""
    turns_dropped: int = 0
    """Turns after a completion's last assistant turn."""
    markers: dict[str, int] = field(default_factory=dict)
    """Markers of the next speaker that are an EOS -> the number of turns that they end."""
    open_ends: int = 0
    """Turns before the last that have no EOS at their end, so that their end is not trained on."""
    reasoning_closed: int = 0
    """Completions without reasoning, whose prompt opens a block of it (`--prompt-format concat`)."""
    reasoning_left_out: int = 0
    """Earlier turns whose reasoning the template leaves out."""
    white_space_changed: int = 0
    """Turns in which the template changes white space."""
    double_bos: int = 0
    """Rows whose prompt begins with two BOS ids."""
    prompt_lengths: list[int] = field(default_factory=list)
    completion_lengths: list[int] = field(default_factory=list)
    row_lengths: list[int] = field(default_factory=list)
    """Tokens before any cut, refused rows included. A row's length is its prompt and its longest completion."""

    @property
    def num_refused(self) -> int:
        return sum(map(len, self.refused.values()))

    def measure(self, row: RowIds) -> None:
        self.prompt_lengths.append(len(row.prompt))
        self.completion_lengths += [len(c.ids) for c in row.completions]
        self.row_lengths.append(len(row.prompt) + row.longest())

    def add(self, text: RowText, row: RowIds, fitted: Fitted, bos: int | None) -> None:
        self.used += 1
        self.shortened += fitted.changed
        self.prompts_shortened += fitted.prompt_tokens_lost > 0
        self.turns_lost += fitted.turns_lost
        self.prompt_tokens_lost += fitted.prompt_tokens_lost
        self.completions_cut += fitted.completions_cut
        self.completion_tokens_lost += fitted.completion_tokens_lost
        self.literal_controls += text.literals > 0 and not text.raw
        self.raw_controls += text.literals > 0 and text.raw
        self.turns_dropped += sum(c.turns_dropped for c in text.completions)
        self.double_bos += bos is not None and row.prompt[:2] == (bos, bos)
        self.reasoning_left_out += text.changes.reasoning
        self.white_space_changed += text.changes.white_space
        self.completions += len(row.completions)
        for completion in text.completions:
            self.eos_appended += completion.append_eos and not text.raw
            self.open_ends += completion.open_ends
            self.reasoning_closed += completion.reasoning_closed
            for marker in completion.markers:
                self.markers[marker] = self.markers.get(marker, 0) + 1
            if completion.tail:
                self.tails_dropped[completion.tail] = self.tails_dropped.get(completion.tail, 0) + 1

    def merge(self, other: TokenReport) -> None:
        """Adds the counts of further rows. Their lengths are left out: they are as many as the rows."""
        for one in fields(self):
            ours, theirs = getattr(self, one.name), getattr(other, one.name)
            if one.name == "max_length" or one.name.endswith("_lengths"):
                continue
            if isinstance(ours, int):
                setattr(self, one.name, ours + theirs)
            elif isinstance(ours, list):
                ours += theirs
            else:
                for key, value in theirs.items():
                    ours[key] = ours[key] + value if key in ours else value

    def lines(self, *, before: int = 0) -> list[str]:
        """The report as text for people, at most 80 columns wide. `before`: rows that were refused earlier."""
        refused = self.num_refused + before
        rows = f"rows: {self.used} of {self.used + refused} used, {self.shortened} of them shortened"
        out = [f"{rows}, {refused} refused"]
        if self.prompts_shortened:
            turns = f" and {counted(self.turns_lost, 'turn')}" if self.turns_lost else ""
            out.append(
                f"{counted(self.prompts_shortened, 'prompt')} lost {counted(self.prompt_tokens_lost, 'token')}{turns} "
                f"to fit max_length {self.max_length}"
            )
        if self.completions_cut:
            out.append(
                f"{counted(self.completions_cut, 'completion')} cut at the end, losing the EOS and "
                f"{counted(self.completion_tokens_lost, 'token')} in all"
            )
        out += [f"refused, {len(s)}: {reason} ({some(s)})" for reason, s in self.refused.items()]
        return [line for text in [*out, *self._notes()] for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ")]

    def _notes(self) -> list[str]:
        out = []
        if self.boundary_differs:
            out.append(
                "prompt and completion have different ids when they are encoded as one text, in "
                f"{len(self.boundary_differs)} of {counted(self.boundary_checked, 'row')} compared "
                f"({some(self.boundary_differs)}); training uses the ids that sampling produces"
            )
        if self.eos_appended:
            out.append(
                f"the template writes no EOS at the end, so it was appended to {self.eos_appended} of "
                f"{counted(self.completions, 'completion')}"
            )
        out += [
            f"the next speaker's marker {marker!r} is an EOS: it ends {counted(n, 'turn')} and is trained on"
            for marker, n in self.markers.items()
        ]
        if self.open_ends:
            out.append(
                f"no EOS follows {counted(self.open_ends, 'turn')} before the last, so their end is not trained on"
            )
        if self.reasoning_closed:
            out.append(
                "the prompt opens a block of reasoning; "
                f"{counted(self.reasoning_closed, 'completion')} without reasoning begin with the closing tag"
            )
        if self.reasoning_left_out:
            out.append(f"the template leaves out the reasoning of {counted(self.reasoning_left_out, 'earlier turn')}")
        if self.white_space_changed:
            out.append(f"the template changes white space in {counted(self.white_space_changed, 'turn')}")
        out += [f"dropped after EOS: {tail!r} ({counted(n, 'completion')})" for tail, n in self.tails_dropped.items()]
        if self.literal_controls:
            verb = "spells" if self.literal_controls == 1 else "spell"
            out.append(
                f"{counted(self.literal_controls, 'row')} {verb} a control token in a turn, which is kept as text"
            )
        if self.raw_controls:
            out.append(f"raw strings spell control tokens, which are read as such: {counted(self.raw_controls, 'row')}")
        if self.turns_dropped:
            out.append(f"left out after the last assistant turn: {counted(self.turns_dropped, 'turn')}")
        if self.double_bos:
            out.append(f"two BOS at the start: {counted(self.double_bos, 'prompt')}")
        return out
