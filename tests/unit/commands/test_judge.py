"""`assent judge`: what is asked, what is written, what it costs, and that nothing is asked twice."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import assent
from assent.data.loading import load_groups
from assent.errors import ConfigError, DataError, RunError
from tests.support.chat import answers_in, chat, completion, prefers
from tests.support.cli import said
from tests.support.docs import ROOT, blocks
from tests.support.models import tiny_model
from tests.support.rows import read_rows, write_rows

LONGER = prefers(lambda a, b: len(a) > len(b))


def completions(path: Path, prompts: int = 4, k: int = 2) -> Path:
    """As `sample` writes them: a row for each completion. The last completion of a prompt is the longest."""
    rows = [
        {"prompt": f"question {i}", "completion": f"answer {i}" + "!" * j, "completion_index": j, "topic": f"t{i}"}
        for i in range(prompts)
        for j in range(k)
    ]
    return write_rows(path, rows)


def judge(folder: Path, url: str, **options: Any) -> dict[str, Any]:
    given = {
        "data": folder / "completions.jsonl",
        "output_dir": folder / "out",
        "endpoint": url,
        "model": "m",
        "controls": 0,
    }
    return assent.judge(**{name: value for name, value in {**given, **options}.items() if value is not None})


def test_both_orders_agree_and_the_file_has_the_better_answer_first(tmp_path: Path) -> None:
    completions(tmp_path / "completions.jsonl")
    with chat(LONGER) as server:
        found = judge(tmp_path, server.url)
    assert len(server.bodies) == 8  # 4 prompts, both orders
    rows = read_rows(found["judged"])
    assert rows[0] == {
        "prompt": "question 0", "completions": ["answer 0!", "answer 0"], "ranking": [1, 2],
        "annotator": f"m at {server.url}/chat/completions", "completion_index": [1, 0], "topic": "t0",
    }  # fmt: skip
    record = json.loads(Path(found["report"]).read_text())
    assert (record["prompts_judged"], record["ties"], record["calls"]) == (4, 0, 8)
    assert record["consistent"]["value"] == 1
    assert record["position"]["bias"]["value"] == 0


def test_orders_that_disagree_tie(tmp_path: Path) -> None:
    completions(tmp_path / "completions.jsonl")
    with chat(lambda system, user: "A") as server:
        found = judge(tmp_path, server.url)
    assert all(row["ranking"] == [1, 1] for row in read_rows(found["judged"]))
    record = json.loads(Path(found["report"]).read_text())
    assert (record["consistent"]["value"], record["position"]["bias"]["value"], record["ties"]) == (0, 0.5, 4)


def test_k_completions_are_ranked_by_their_wins(tmp_path: Path) -> None:
    completions(tmp_path / "completions.jsonl", prompts=2, k=4)
    with chat(LONGER) as server:
        found = judge(tmp_path, server.url)
    assert len(server.bodies) == 2 * 6 * 2
    row = read_rows(found["judged"])[1]
    assert row["completions"] == ["answer 1!!!", "answer 1!!", "answer 1!", "answer 1"]
    assert row["ranking"] == [1, 2, 3, 4]


def test_a_row_may_hold_the_completions_of_its_prompt(tmp_path: Path) -> None:
    write_rows(tmp_path / "completions.jsonl", [{"prompt": "q", "completions": ["short", "a long one", "longer"]}])
    with chat(LONGER) as server:
        found = judge(tmp_path, server.url)
    (row,) = read_rows(found["judged"])
    assert (row["completions"], row["ranking"]) == (["a long one", "longer", "short"], [1, 2, 3])


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "completions.jsonl", [{"prompt": "q", "completions": ["short", "a long one"]}] * 3)
    with chat(LONGER) as server:
        assert judge(tmp_path, server.url, dry_run=True)["requests"] == 2
        found = judge(tmp_path, server.url)
    assert len(server.bodies) == 2
    assert [row["completions"][0] for row in read_rows(found["judged"])] == ["a long one"] * 3


def test_probabilities_are_those_of_the_letters_and_both_orders_average(tmp_path: Path) -> None:
    completions(tmp_path / "completions.jsonl", prompts=1)

    def reply(system: str, user: str) -> dict[str, Any]:
        a, b = answers_in(user)
        shares = {"A": 0.6, " B": 0.2, "C": 0.2} if len(a) > len(b) else {"A": 0.05, "B": 0.45, "**B": 0.5}
        return completion("A", logprobs={token: math.log(p) for token, p in shares.items()})

    with chat(reply) as server:
        found = judge(tmp_path, server.url, probabilities=True)
    (row,) = read_rows(found["judged"])
    assert row["chosen"] == "answer 0!"
    assert row["chosen_probability"] == pytest.approx((0.6 / 0.8 + 0.95) / 2, abs=1e-12)  # by hand: 0.85
    assert (server.bodies[0]["logprobs"], server.bodies[0]["top_logprobs"]) == (True, 20)


def test_an_endpoint_without_log_probabilities_is_an_error(tmp_path: Path) -> None:
    completions(tmp_path / "completions.jsonl")
    with chat(LONGER) as server, pytest.raises(RunError, match="gives no log-probabilities"):
        judge(tmp_path, server.url, probabilities=True)


def test_the_rubric_and_structured_output_are_sent(tmp_path: Path) -> None:
    completions(tmp_path / "completions.jsonl", prompts=1)
    rubric = tmp_path / "rubric.yaml"
    rubric.write_text("criterion: which answer is kinder\nprinciples: [Never mock., Thank people.]\n")
    verdict = lambda system, user: json.dumps({"reason": "so", "verdict": LONGER(system, user)})
    with chat(verdict) as server:
        found = judge(tmp_path, server.url, rubric=str(rubric), reply="json")
    system = server.bodies[0]["messages"][0]["content"]
    assert "Decide which answer is kinder. Hold to these principles:\n1. Never mock.\n2. Thank people." in system
    schema = server.bodies[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["verdict"]["enum"] == ["A", "B"]
    assert read_rows(found["judged"])[0]["completions"][0] == "answer 0!"


def test_a_dry_run_counts_and_asks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = completions(tmp_path / "completions.jsonl", k=3)
    with chat(LONGER) as server:
        prices = ("--input-price", 2, "--output-price", 10)
        words = [
            "judge",
            "--data",
            data,
            "--output-dir",
            tmp_path / "out",
            "--endpoint",
            server.url,
            "--model",
            "m",
            "--controls",
            0,
        ]
        status, out, _ = said([*words, *prices, "--dry-run", "--json"], capsys)
        assert (status, server.bodies) == (0, [])
        document = json.loads(out)
        assert not (tmp_path / "out").exists()
        assert document["requests"] == 4 * 3 * 2
        assert document["output_tokens"] == 24 * 16
        assert document["cost"] == pytest.approx((2 * document["input_tokens"] + 10 * 24 * 16) / 1e6)
        judge(tmp_path, server.url, num_prompts=1)
    assert len(server.bodies) == 6


def test_the_budget_ends_the_run_in_good_order_and_a_larger_one_continues(tmp_path: Path) -> None:
    completions(tmp_path / "completions.jsonl", prompts=5)
    with chat(LONGER) as server:
        first = judge(tmp_path, server.url, max_requests=5, concurrency=1)
        assert len(server.bodies) == 5
        assert first["spent"]
        assert len(read_rows(first["judged"])) == 2  # both orders of two prompts; the fifth answer is kept
        second = judge(tmp_path, server.url, max_requests=10)
        assert len(server.bodies) == 10
        assert not second["spent"]
        assert len(read_rows(second["judged"])) == 5
        record = json.loads(Path(second["report"]).read_text())
        assert record["spent"]["requests"] == 10  # those of the first process count
        assert judge(tmp_path, server.url, max_requests=10) == second
        assert len(server.bodies) == 10


def test_money_is_counted_by_the_servers_tokens(tmp_path: Path) -> None:
    completions(tmp_path / "completions.jsonl", prompts=50)
    usage = {"prompt_tokens": 100_000, "completion_tokens": 1000}

    with chat(lambda system, user: completion(LONGER(system, user), usage=usage)) as server:
        found = judge(tmp_path, server.url, max_cost=1.0, input_price=1.0, output_price=10.0, concurrency=1)
    spent = json.loads(Path(found["report"]).read_text())["spent"]
    assert spent["cost"] == pytest.approx(9 * 0.11)  # the tenth would reach 1.1
    assert (spent["input_tokens"], spent["output_tokens"], len(server.bodies)) == (900_000, 9_000, 9)
    assert found["spent"]


def test_an_interrupted_run_asks_nothing_twice(tmp_path: Path) -> None:
    completions(tmp_path / "completions.jsonl", prompts=3)
    asked: list[str] = []

    def dies(system: str, user: str) -> Any:
        asked.append(user)
        return "A" if len(asked) <= 3 else (400, {"error": "no"})

    with chat(dies) as server:
        with pytest.raises(RunError, match="refused the request"):
            judge(tmp_path, server.url, concurrency=1)
        answered = asked[:3]
        asked[:] = [""] * -1000  # from here on every request is answered
        found = judge(tmp_path, server.url, concurrency=1)
    later = [body["messages"][1]["content"] for body in server.bodies][len(answered) + 1 :]
    assert not set(answered) & set(later)
    assert len(read_rows(found["judged"])) == 3


def test_what_is_written_trains_directly(tmp_path: Path) -> None:
    completions(tmp_path / "completions.jsonl", prompts=6)
    model = tiny_model(tmp_path / "model", context=1024)
    with chat(LONGER) as server:
        found = judge(tmp_path, server.url)
    assert [group.preference.ranking for group in load_groups(found["judged"]) if group.preference] == [(1, 2)] * 6
    assert assent.dpo(model=model, data=found["judged"], output_dir=tmp_path / "dpo", max_steps=1).steps == 1
    assert assent.reward(model=model, data=found["judged"], output_dir=tmp_path / "rm", max_steps=1).steps == 1


def test_a_prompt_with_one_completion_is_counted_and_left_out(tmp_path: Path, capsys: Any) -> None:
    rows = [{"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": "bb"}, {"prompt": "q", "completion": "c"}]
    data = write_rows(tmp_path / "completions.jsonl", rows)
    with chat(LONGER) as server:
        words = [
            "judge",
            "--data",
            data,
            "--output-dir",
            tmp_path / "out",
            "--endpoint",
            server.url,
            "--model",
            "m",
            "--controls",
            0,
        ]
        status, out, err = said(words, capsys)
    assert status == 0
    assert "1 prompt left out" in err
    assert "1 of 1 prompts judged" in out
    write_rows(data, rows[2:])
    with pytest.raises(DataError, match="no prompt has two completions"):
        judge(tmp_path, server.url, output_dir=tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": None, "model": None}, "give endpoint and model, model, reward or function"),
        ({"model": None}, "endpoint needs model"),
        ({"probabilities": True, "reply": "json"}, "leave out reply json"),
        ({"max_cost": 1}, "max_cost has no effect without prices"),
        ({"endpoint": None, "model": None, "function": "m:f", "max_requests": 1}, "max_requests has no effect"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    completions(tmp_path / "completions.jsonl")
    with pytest.raises(ConfigError, match=message):
        judge(tmp_path, "http://localhost:1/v1", **options)


def test_the_pages_bias_makes_a_model_reply_with_one_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "my-model")
    (block,) = blocks(ROOT / "docs/judge.md", "python")
    (tmp_path / "block.py").write_text(block)
    runpy.run_path("block.py")
    tokenizer = AutoTokenizer.from_pretrained("letters")
    asked = tokenizer("which is better?", return_tensors="pt")
    replies = []
    for folder in ("my-model", "letters"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        written = model.generate(**asked, do_sample=False, max_new_tokens=16)[0, asked["input_ids"].shape[1] :]
        replies.append(tokenizer.decode(written, skip_special_tokens=True))
    assert replies[0] not in ("A", "B")
    assert replies[1] in ("A", "B")
