"""Draws docs/images/data-show.svg: what `assent data show` prints at 80 columns, with marks and in colour.

    python benchmarks/data_show.py

The model is a small new one, whose tokenizer is learned from the pages in docs/.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from assent.commands.data_show import show_data
from assent.commands.data_show_text import WIDTH, lines_of
from assent.commands.tools import new_model
from assent.config.commands import DataShowConfig, NewModelConfig

ROOT = Path(__file__).parents[1]
ROW = {
    "messages": [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "What does a reward model give?"},
        {"role": "assistant", "content": "It gives each completion a score."},
        {"role": "user", "content": "And where is the score read?"},
        {"role": "assistant", "content": "At the last token of the completion."},
    ]
}


def main() -> None:
    pages = sorted(str(page) for page in (ROOT / "docs").glob("*.md"))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="standard")
    with tempfile.TemporaryDirectory() as folder:
        model, data = str(Path(folder) / "my-model"), Path(folder) / "chat.jsonl"
        new_model(
            NewModelConfig(output_dir=model, text_files=pages, vocab_size=2500, hidden_size=16, layers=1, heads=2)
        )
        data.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
        document = show_data(DataShowConfig(file=str(data), model=model, row=1))
        document |= {"file": data.name, "model": "my-model"}
        document["rows"][0]["source"] = f"{data.name}:1"
    for colour in (False, True):
        command = "$ assent data show chat.jsonl --model my-model --row 1" + (" | cat" if not colour else "")
        lines = [command, *lines_of(document, colour=colour, whole=True), ""]
        console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True)
    picture = console.export_svg(title="assent data show")
    picture = re.sub(r"\s*@font-face \{.*?\}\n", "\n", picture, flags=re.DOTALL)  # a page fetches nothing
    picture = "\n".join(line.rstrip() for line in picture.splitlines()) + "\n"
    (ROOT / "docs" / "images" / "data-show.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
