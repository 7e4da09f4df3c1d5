"""Which functions does one pair cross from its file to `backward()`, and one rollout from its prompt to the update?

    python benchmarks/hops.py

Trains a tiny new model for one step: with `assent dpo` on a file of one pair, and with `assent ppo` on one prompt. It
watches every call. A function is crossed if the datum takes a new form in it or in a
function that it calls, from the stage's `train` on. The forms are: record, tokens, rollout, scores, batch, hidden
states, log-probabilities, outputs, and what `objectives/` makes of them. Left out are checks and the step-0 gate,
probes of the model, the arithmetic of FLOPs, and, for the pair, reads without gradient (the reference's). Prints one
JSON document: for each of the two the number of functions and of files, and the functions in the order of their first
call.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import assent  # first: it says how OpenMP's threads wait

# isort: split
import torch

from assent.models.batch import GroupBatch, Outputs, TokenGroup
from assent.models.trunk import Read
from assent.rewards.base import Scores
from assent.types import PromptGroup, Rollout

PACKAGE = str(Path(assent.__file__).parent) + os.sep
FORMS = (PromptGroup, Rollout, Scores, TokenGroup, GroupBatch, Read, Outputs)
OBJECTIVES, HEAD = "objectives/", "log_probabilities"
"""A call from outside of these functions gives the datum a new form too, which is no record."""
ASIDE = ("stages/gate.py", "models/tiers.py", "models/shape.py")


class Watch:
    """The functions that the datum crosses, in the order of their first call.

    starts_at   the function of Assent with which the way begins
    reads       whether reads without gradient are a part of the way
    """

    def __init__(self, *, starts_at: str, reads: bool) -> None:
        self.starts_at, self.reads = starts_at, reads
        self.has_begun = False
        self.crossed: dict[str, None] = {}

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        name, file = frame.f_code.co_name, file_of(frame)
        self.has_begun = self.has_begun or (name == self.starts_at and file != "")
        if not self.has_begun:
            return
        if name == "__init__" and isinstance(frame.f_locals.get("self"), FORMS):
            self.note(frame.f_back)
        elif name == HEAD or (file.startswith(OBJECTIVES) and not file_of(frame.f_back).startswith(OBJECTIVES)):
            self.note(frame)

    def note(self, frame: FrameType | None) -> None:
        """The functions on the stack, from the stage's `train` inwards; none if one of them is aside."""
        stack = []
        while frame is not None:
            name, file = frame.f_code.co_name, file_of(frame)
            if file in ASIDE or (file and name.lstrip("_").partition("_")[0] in ("check", "gate")):
                return
            if name == "read_groups" and not self.reads:
                return
            if file and not name.startswith("<"):
                stack.append(f"{file}: {frame.f_code.co_qualname.replace('<locals>.', '')}")
            if file.startswith("stages/") and name == "train":
                break
            frame = frame.f_back
        self.crossed |= dict.fromkeys(reversed(stack))


def file_of(frame: FrameType | None) -> str:
    """`models/batch.py`, or nothing outside of Assent."""
    path = frame.f_code.co_filename if frame is not None else ""
    return path.removeprefix(PACKAGE) if path.startswith(PACKAGE) else ""


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    backward = torch.Tensor.backward

    def noted(self: torch.Tensor, *args: Any, **keywords: Any) -> None:
        watch.note(sys._getframe(1))
        backward(self, *args, **keywords)

    torch.Tensor.backward = noted  # type: ignore[method-assign]
    sys.setprofile(watch.profile)
    threading.setprofile(watch.profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        torch.Tensor.backward = backward  # type: ignore[method-assign]


def ways(folder: Path) -> dict[str, list[str]]:
    """The functions that a pair and a rollout cross."""
    text = [{"prompt": f"How are {i} ants?", "completion": f"They are {i * i} times well."} for i in range(99)]
    (folder / "text.jsonl").write_text("\n".join(map(json.dumps, text)))
    sizes = {"vocab_size": 300, "hidden_size": 16, "layers": 1, "heads": 2}
    model = assent.new_model(text_files=[str(folder / "text.jsonl")], output_dir=folder / "model", **sizes)
    pair: dict[str, Any] = {"prompt": [{"role": "user", "content": "How are ants?"}]}
    for name, answer in (("chosen", "They are well."), ("rejected", "How?")):
        pair[name] = [{"role": "assistant", "content": answer}]
    (folder / "pair.jsonl").write_text(json.dumps(pair))
    options = {"model": model["model_path"], "data": str(folder / "pair.jsonl"), "batch_size": 1, "device": "cpu"}
    with watched(of_pair := Watch(starts_at="load_groups", reads=False)):
        assent.dpo(**options, output_dir=folder / "dpo", max_steps=1)
    options |= {"reward": [{"reward": "length", "maximum": 60}], "num_completions": 2, "max_new_tokens": 4}
    with watched(of_rollout := Watch(starts_at="sample", reads=True)):
        assent.ppo(**options, output_dir=folder / "ppo", total_steps=1, num_ppo_epochs=1, num_mini_batches=1)
    return {"pair": list(of_pair.crossed), "rollout": list(of_rollout.crossed)}


def main() -> None:
    torch.set_num_threads(1)  # policy and critic are then trained in order, not side by side
    with tempfile.TemporaryDirectory() as folder:
        crossed = ways(Path(folder))
    document = {
        what: {"functions": len(names), "files": len({name.split(":")[0] for name in names}), "crossed": names}
        for what, names in crossed.items()
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
