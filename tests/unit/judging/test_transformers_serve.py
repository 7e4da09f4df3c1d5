"""A server that is not ours: `transformers serve` with a tiny model, asked by `assent judge` in both orders."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import assent
from assent.judging.chat import compare_texts
from assent.judging.rubric import Rubric
from assent.runs.files import from_json, read_lines
from tests.support.models import tiny_model
from tests.support.rows import read_rows, write_rows

NEEDED = ("fastapi", "openai", "uvicorn")
PATIENCE_SECONDS = 900.0
"""Only what hangs takes so long, on whatever machine."""
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"transformers serve needs {', '.join(missing)}")


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that replies with A or B, by whichever it finds likelier (docs/judge.md), and minds the context."""
    folder = tiny_model(tmp_path_factory.mktemp("serve") / "letters", context=4096)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(40)
    model.save_pretrained(folder)
    a, b = (tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "AB")
    end = tokenizer.eos_token_id
    config = GenerationConfig.from_pretrained(folder)
    config.sequence_bias = [[[a], 100.0], [[b], 100.0], [[a, end], 200.0], [[b, end], 200.0]]
    config.save_pretrained(folder)
    return folder


@contextmanager
def served(model: str, log: Path) -> Iterator[str]:
    """The address of a server of this model, on loopback and without a network."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "transformers.cli.transformers", "serve", model, "--host", "127.0.0.1"]
    argv += ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as said:
        process = subprocess.Popen(argv, stdout=said, stderr=subprocess.STDOUT, env=environment)
        try:
            end = time.monotonic() + PATIENCE_SECONDS
            while not is_up(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < end, log.read_text()[-2000:]
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def is_up(address: str) -> bool:
    try:
        return httpx.get(address, timeout=PATIENCE_SECONDS).status_code == 200
    except httpx.TransportError:
        return False


def letter(model: str, question: tuple[str, str]) -> str:
    """The likelier of A and B as the first token of the reply, from transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    turns = [{"role": role, "content": text} for role, text in zip(("system", "user"), question, strict=True)]
    inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(model)(**inputs).logits[0, -1]
    return max("AB", key=lambda one: float(logits[tokenizer.encode(one, add_special_tokens=False)[0]]))


def test_it_is_asked_in_both_orders_and_nothing_twice(letters: str, tmp_path: Path) -> None:
    texts = ("no", "it is 4.", "what is it? I will not say.", "plus plus plus 7", "B", "it is 2 plus 2. 4")
    pairs = [(f"what is {n} plus {n}?", texts[n], texts[(n + 2) % 6]) for n in range(6)]
    rows = [{"prompt": prompt, "completion": text} for prompt, *both in pairs for text in both]
    data, log = write_rows(tmp_path / "completions.jsonl", rows), tmp_path / "server.log"
    with served(letters, log) as address:
        asked: dict[str, Any] = {
            "data": data, "model": letters, "controls": 0, "output_dir": tmp_path / "out", "endpoint": address,
            "concurrency": 1, "timeout_seconds": PATIENCE_SECONDS,
        }  # fmt: skip
        first = assent.judge(**asked, max_requests=5)
        assert len(read_rows(first["judged"])) == 2
        second = assent.judge(**asked)
    assert log.read_text().count("POST /v1/chat/completions") == 12, "6 pairs, both orders, nothing twice"
    judged = read_rows(second["judged"])
    record = from_json(Path(second["report"]).read_bytes())
    assert (len(judged), record["prompts_judged"], record["calls"], record["invalid"]) == (6, 6, 12, 0)
    replies = [row["answer"] for row in read_lines(tmp_path / "out/judgements.jsonl")]
    assert {reply["text"] for reply in replies} == {"A", "B"}
    assert not any(reply["usage"]["is_estimated"] for reply in replies), "the server counts tokens"

    expected = []
    for prompt, x, y in pairs:
        x_wins = [letter(letters, compare_texts(Rubric(), prompt, x, y)) == "A",
                  letter(letters, compare_texts(Rubric(), prompt, y, x)) == "B"]  # fmt: skip
        expected.append({x} if all(x_wins) else {x, y} if any(x_wins) else {y})
    assert any(len(best) == 1 for best in expected)
    for row, best in zip(judged, expected, strict=True):
        ranked = zip(row["completions"], row["ranking"], strict=True)
        assert {text for text, rank in ranked if rank == 1} == best
