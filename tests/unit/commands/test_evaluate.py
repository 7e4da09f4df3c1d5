"""`assent eval` on models, on files of completions and on rankings: what it prints, writes, and refuses."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from assent.data.loading import write_groups
from assent.evaluation.answers import distinct_n
from assent.evaluation.generators import rank_writers, spearman, writer_lines
from assent.sandbox.replies import BAD, GOOD, compose
from assent.sandbox.world import World
from assent.types import Preference, PromptGroup
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import answer, question, write_rows

LENGTH = "tests.unit.commands.test_evaluate:length"


def length(prompts, completions):
    return [float(len(completion)) for completion in completions]


def shorter(prompts, first, second):
    return ["A" if len(a) < len(b) else "B" if len(b) < len(a) else "tie" for a, b in zip(first, second, strict=True)]


def neither(prompts, first, second):
    return ["I like both"] * len(prompts)


def words(prompts, completions, groups):
    return [
        {"attribute/words": len(completion.split()), "harm_in_answer": "no" in completion} for completion in completions
    ]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve prompts in three slices; `long` and `short` answer each twice, `mid` once."""
    monkeypatch.chdir(tmp_path)
    topic = ["few"] * 3 + ["odd", "even"] * 4 + ["odd"]
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": question(i), "topic": topic[i]} for i in range(12)])
    texts = {"long": lambda i, k: f"it is surely {i + k}", "short": lambda i, k: "no" if k else f"{i}"}
    for name, text in texts.items():
        rows = [
            {"prompt": question(i), "completion": answer(text(i, k)), "tokens": 3 + k, "finish_reason": "stop"}
            for i in range(12)
            for k in range(2)
        ]
        write_rows(tmp_path / f"{name}.jsonl", rows)
    mid = [{"prompt": question(i), "completions": [answer(f"it {i}")], "scores": [0.5]} for i in range(12)]
    write_rows(tmp_path / "mid.jsonl", mid)
    return tmp_path


def compare(here: Path, *more: object, policy: str = "long.jsonl", baseline: str = "short.jsonl") -> list[object]:
    return ["eval", "--policy", policy, "--baseline", baseline, "--data", here / "prompts.jsonl", *more]


def test_two_files_of_completions_in_figures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = compare(
        here, "--judge", LENGTH, "--precision", "0.05", "--safety", "tests.unit.commands.test_evaluate:words"
    )
    status, out, err = said([*argv, "--slices", "topic", "--json"], capsys)
    assert status == 0, err
    document = json.loads(out)
    assert (document["evaluation"], document["table"]) == (None, None)
    assert list(here.glob("*/")) == []
    figures = document["figures"]
    assert (figures["baseline"], figures["reference"], figures["num_prompts"]) == ("short", None, 12)
    short, long = figures["policies"]
    assert (short["name"], short["sampled"]["win_rate"], short["kl"], long["greedy"]) == ("short", None, None, None)
    sampled = long["sampled"]
    assert (sampled["win_rate"]["value"], sampled["win_rate"]["n"]) == (1.0, 12)
    lengths = [[len(f"it is surely {i + k}") for k in range(2)] for i in range(12)]
    assert sampled["scores"] == lengths
    assert sampled["characters"]["value"] == pytest.approx(sum(map(sum, lengths)) / 24)
    less = sum(map(sum, lengths)) / 24 - sum((len(str(i)) + 2) / 2 for i in range(12)) / 12
    assert sampled["difference"]["value"] == pytest.approx(less)
    assert (sampled["length"]["value"], sampled["eos_rate"]["value"]) == (3.5, 1.0)
    assert sampled["length_controlled"] is None  # it wins everywhere
    assert sampled["prompts_needed"] > 12
    assert sampled["refusal_rate"]["value"] == 0
    assert sampled["distinct_1"]["value"] == pytest.approx(5 / 8)  # it, is, surely and two numbers of eight words
    assert set(sampled["safety"]) == {"attribute/words", "harm_in_answer"}
    assert short["sampled"]["safety"]["harm_in_answer"]["value"] == 0.5
    slices = sampled["slices"]["topic"]
    assert {value: one["win_rate"]["clusters"] for value, one in slices.items()} == {"few": 3, "odd": 5, "even": 4}
    assert slices["few"]["win_rate"]["low"] is None  # too few: an answer, not a crash
    assert slices["odd"]["win_rate"]["low"] > 0.5
    table = "\n".join(document["lines"])
    assert max(map(len, document["lines"])) <= 80
    assert "1.00 (too few)" in table
    assert "0.00 [0.00, 0.24]" in table  # harm in answers
    assert "KL is not measured" in err


def test_a_judge_of_pairs_and_more_than_two(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = compare(here, "--against", "mid.jsonl", "--pair-judge", "tests.unit.commands.test_evaluate:shorter")
    status, out, err = said([*argv, "--output-dir", "out"], capsys)
    assert status == 0, err
    evaluation = json.loads(Path("out/evaluation.json").read_text())
    by_name = {policy["name"]: policy for policy in evaluation["policies"]}
    assert list(by_name) == ["short", "long", "mid"]
    assert by_name["long"]["sampled"]["gold"] is None
    assert by_name["long"]["sampled"]["win_rate"]["value"] == 0
    assert by_name["long"]["rating"] is None  # it loses everywhere: no finite rating
    assert by_name["short"]["rating"]["value"] == 0
    assert evaluation["wins"]["mid"]["long"]["value"] == 1
    assert evaluation["judge"]["consistent"]["value"] == 1
    assert evaluation["judge"]["first_wins"]["value"] == 0.5
    assert evaluation["judge"]["calls"] == 2 * (24 + 12 + 12)
    assert "both orders agree: 1.00" in out
    assert said(["report", "out"], capsys)[0] == 0  # no KL, no scores, no tokens: a page all the same
    assert "nothing to do" in said([*argv, "--output-dir", "out"], capsys)[2]


def test_models_and_a_file_side_by_side(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(here / "tiny")
    options = ["--judge", LENGTH, "--max-length", 64, "--max-new-tokens", 6, "--samples-per-prompt", 2]
    argv = compare(here, *options, "--against", "long.jsonl", policy="short.jsonl", baseline=str(model))
    status, out, err = said([*argv, "--slices", "topic", "--json"], capsys)
    assert status == 0, err
    tiny, short, _ = json.loads(out)["figures"]["policies"]
    assert tiny["kl"]["k1"]["value"] == pytest.approx(0, abs=1e-4)
    assert tiny["sampled"]["entropy"]["value"] > 10  # six tokens of about 300: at most 6 ln 300 = 34
    assert tiny["sampled"]["entropy"]["value"] < 35
    assert tiny["greedy"]["entropy"] is None
    assert set(tiny["sampled"]["slices"]["topic"]["odd"]) > {"k1", "k3", "entropy", "eos_rate", "distinct_2"}
    assert tiny["sampled"]["slices"]["topic"]["odd"]["k1"]["n"] == 10
    assert short["kl"] is None
    assert short["sampled"]["win_rate"]["n"] == 12


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (
            lambda argv, here: [*argv, "--samples-per-prompt", 3],
            ["too few completions for a prompt", "2 (short.jsonl:1)", "3 or more"],
        ),
        (
            lambda argv, here: [*argv, "--reward-model", LENGTH, "--best-of-n", 4],
            ["too few completions for a prompt", "4 or more"],
        ),
        (lambda argv, here: [*argv, "--max-new-tokens", 4], ["max_new_tokens has no effect", "files of completions"]),
        (lambda argv, here: [*argv, "--dtype", "bfloat16"], ["dtype has no effect"]),
        (lambda argv, here: [*argv, "--reference", "short.jsonl"], ["reference is a file"]),
        (lambda argv, here: [*argv, "--slices", "topc"], ["no column topc", "topic"]),
        (lambda argv, here: ["none:at_all" if a == LENGTH else a for a in argv], ["none:at_all"]),
        (lambda argv, here: [a for a in argv if a not in ("--judge", LENGTH)], ["nothing says which answers"]),
        (
            lambda argv, here: [write_rows(here / "long.jsonl", []) and a for a in argv],
            ["long.jsonl"],
        ),
        (
            lambda argv, here: [write_rows(here / "long.jsonl", [{"prompt": question(0)}]) and a for a in argv],
            ["has no completion"],
        ),
        (
            lambda argv, here: [
                write_rows(here / "long.jsonl", [{"prompt": question(99), "completion": answer("a")}]) and a
                for a in argv
            ],
            ["no prompts in common", "what is 99 plus 99?", "what is 0 plus 0?"],
        ),
        (
            lambda argv, here: [
                write_rows(here / "long.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}]) and a for a in argv
            ],
            ["holds comparisons"],
        ),
    ],
)
def test_bad_input_is_status_2_and_nothing_is_written(
    spoil: Any, parts: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = spoil(compare(here, "--judge", LENGTH, "--output-dir", "out"), here)
    status, out, err = said(argv, capsys)
    assert (status, out) == (2, ""), err
    for part in parts:
        assert part in err
    assert not (here / "out").exists()


def test_a_judge_that_answers_neither_a_nor_b_stops_the_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(compare(here, "--pair-judge", "tests.unit.commands.test_evaluate:neither"), capsys)
    assert status == 3
    assert "are not a verdict" in err
    assert "I like both" in err
    status, _, err = said(compare(here, "--pair-judge", LENGTH), capsys)
    assert (status, "does not compare answers" in err) == (2, True)


def test_prompts_that_a_file_lacks_are_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (here / "long.jsonl").read_text().splitlines(keepends=True)
    (here / "long.jsonl").write_text("".join(rows[:10]))
    status, out, err = said(compare(here, "--judge", LENGTH), capsys)
    assert (status, "5 of 12 prompts have completions in every file" in err) == (0, True)
    assert out.startswith("5 prompts, judged by")


def test_best_of_n_of_a_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = compare(here, "--judge", LENGTH, "--reward-model", LENGTH, "--best-of-n", 2, "--json")
    best = json.loads(said(argv, capsys)[1])["figures"]["policies"][-1]
    assert best["name"] == "best-of-2"
    assert best["sampled"]["scores"] == [[2.0]] * 12
    assert best["kl"]["value"] == pytest.approx(10 / 12 * (math.log(2) - 1 / 2))  # of 10 and 11 both have two letters
    assert (best["kl"]["kind"], best["kl"]["best_of_n"]["clusters"]) == ("best_of_n", 12)
    assert best["kl"]["choice_bound"] == pytest.approx(math.log(2) - 1 / 2)


def test_the_sandboxs_own_judge_and_safety_need_not_be_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = World(0).prompts("test", 60, 0)
    write_groups(here / "sandbox.jsonl", groups, "prompts")
    rng = random.Random(0)
    for name, style in (("good", GOOD), ("bad", BAD)):
        rows = [
            {"prompt": [group.prompt[0].as_dict()], "completion": answer(compose(group.columns, style, rng))}
            for group in groups
        ]
        write_rows(here / f"{name}.jsonl", rows)
    argv = ["eval", "--policy", "good.jsonl", "--baseline", "bad.jsonl", "--data", "sandbox.jsonl", "--json"]
    status, out, err = said(argv, capsys)
    assert status == 0, err
    bad, good = json.loads(out)["figures"]["policies"]
    assert good["sampled"]["win_rate"]["low"] > 0.9
    faults = ("under_refusal", "missed_escalation", "over_refusal", "harm_in_answer")
    assert [good["sampled"]["safety"][name]["value"] for name in faults] == [0, 0, 0, 0]
    assert all(bad["sampled"]["safety"][name]["value"] > 0 for name in faults)
    assert {f"attribute/{name}" for name in ("follows", "right", "safe", "courteous", "concise")} < set(
        good["sampled"]["safety"]
    )


def ranked(here: Path) -> Path:
    """Writer w of ten writes answers of w + 1 characters or so; the labels like length, mostly."""
    rng = random.Random(1)
    rows = []
    for i in range(80):
        names = rng.sample(range(10), 4)
        completions = [answer("x" * (10 * (w + 1) + rng.randrange(30))) for w in names]
        scores = [w + rng.gauss(0, 2) for w in names]
        rows.append(
            {"prompt": question(i), "completions": completions, "scores": scores, "by": [f"w{w}" for w in names]}
        )
    return write_rows(here / "ranked.jsonl", rows)


def test_a_reward_models_ranking_of_who_wrote_beside_the_labels(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["eval", "--reward-model", LENGTH, "--data", ranked(here), "--rank-by", "by"]
    status, out, err = said([*argv, "--json"], capsys)
    assert status == 0, err
    ranking = json.loads(out)["reward_model"]["ranking"]
    both = [[writer[of]["value"] for writer in ranking["writers"]] for of in ("labels", "scores")]
    assert both[0] == sorted(both[0], reverse=True)
    spearman_ = ranking["spearman"]
    assert spearman_["value"] == pytest.approx(stats.spearmanr(*both).statistic)
    assert 0.7 < spearman_["value"] <= spearman_["high"] <= 1
    assert spearman_["low"] < spearman_["value"]
    assert spearman_["n"] == 10
    assert "10 writers by by: Spearman 0." in said(argv, capsys)[1]
    assert "does not name a writer for each completion" in said([*argv[:-1], "prompt_id"], capsys)[2]


def test_shares_of_writers_by_hand() -> None:
    group = PromptGroup(
        prompt="p",
        completions=("1", "2", "3"),
        preference=Preference(scores=(3, 1, 1)),
        columns={"by": ["a", "b", "c"]},
    )
    found = rank_writers([group] * 6, [[0.0, 1.0, 2.0]] * 6, [[3.0, 1.0, 1.0]] * 6, column="by")
    shares = {w["name"]: (w["labels"]["value"], w["scores"]["value"]) for w in found["writers"]}
    assert shares == {"a": (1.0, 0.0), "b": (0.25, 0.5), "c": (0.25, 1.0)}
    alike = rank_writers([group] * 6, [[0.0, 0.0, 0.0]] * 6, [[3.0, 1.0, 1.0]] * 6, column="by")
    assert alike["spearman"] is None  # and not nan, which no JSON holds
    assert "Spearman — with" in writer_lines(alike)[1]
    assert spearman(*([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])).low == -float("inf")  # three points on a line say nothing


def test_distinct_n_by_hand() -> None:
    assert distinct_n(["a b a", "a b"], 1) == 2 / 5
    assert distinct_n(["a b a", "a b"], 2) == 2 / 3  # (a b), (b a), (a b)
    assert distinct_n(["a", ""], 2) is None
