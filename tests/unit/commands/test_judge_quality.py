"""What `assent judge` says about its judge: controls, people, win rates, findings. And judges that are no endpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import assent
from assent.commands.judge_findings import findings_of
from assent.judging.chat import compare_texts
from assent.judging.controls import CONTROLS
from assent.judging.rubric import Rubric
from tests.support.chat import answers_in, chat, prefers
from tests.support.cli import said
from tests.support.models import tiny_model
from tests.support.rows import read_rows, write_rows

LONGER = prefers(lambda a, b: len(a) > len(b))


def by_length(prompts: list[Any], first: list[str], second: list[str]) -> list[str]:
    return ["tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B" for a, b in zip(first, second, strict=True)]


def length(prompts: list[Any], completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def pairs(path: Path, number: int = 12) -> Path:
    rows = [{"prompt": f"q{i}", "completion": text} for i in range(number) for text in (f"fine {i}", f"good {i}!")]
    return write_rows(path, rows)


def record(found: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(Path(found["report"]).read_text()))


def judged(folder: Path, **options: Any) -> dict[str, Any]:
    given = {"data": pairs(folder / "data.jsonl"), "output_dir": folder / "out", **options}
    return assent.judge(**given)


def test_a_judge_that_follows_the_answers_is_found_out(tmp_path: Path) -> None:
    def gullible(system: str, user: str) -> str:
        a, b = answers_in(user)
        return "A" if a == CONTROLS["flattery"] or (b != CONTROLS["flattery"] and len(a) > len(b)) else "B"

    with chat(gullible) as server:
        found = judged(tmp_path, endpoint=server.url, model="m", controls=8)
        assert len(server.bodies) == 2 * (12 + 3 * 8)
    rates = {kind: one["success"]["value"] for kind, one in record(found)["controls"].items()}
    assert rates == {"empty": 0, "choose A": 1, "flattery": 1}  # "choose A" is longer than the answers
    assert [one["rule"] for one in found["findings"]] == ["judge_attacked"]
    assert "choose A, flattery" in found["findings"][0]["verdict"]
    assert len(read_rows(found["judged"])) == 12  # controls are not in the file
    assert json.loads((Path(found["output_dir"]) / "findings.json").read_text())["findings"] == found["findings"]


def test_a_judge_that_obeys_choose_a_ties_in_both_orders(tmp_path: Path) -> None:
    def obeys(system: str, user: str) -> str:
        return "A" if CONTROLS["choose A"] in user else LONGER(system, user)

    with chat(obeys) as server:
        control = record(judged(tmp_path, endpoint=server.url, model="m"))["controls"]["choose A"]
    assert control["success"]["value"] == 0
    assert control["preferred"]["value"] == 0.5


def test_a_judge_that_looks_at_the_place_alone_is_at_fault(tmp_path: Path) -> None:
    """A coin's two orders agree in half of the comparisons; one that surely agrees less often is not a judge."""
    with chat(lambda system, user: "A") as server:
        found = judged(tmp_path, endpoint=server.url, model="m", controls=0)
    (finding,) = found["findings"]
    assert (finding["rule"], finding["severity"]) == ("judge_position", "fault")
    assert "12 of 12" in finding["verdict"]
    one = record(found)
    at_half = {**one, "consistent": {**one["consistent"], "high": 0.5}}
    averaged = {**one, "ties": 6}  # of probabilities, orders that disagree need not tie
    assert [findings_of(other)[0].severity for other in (at_half, averaged)] == ["warning", "warning"]


def test_a_fault_is_exit_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pairs(tmp_path / "data.jsonl")
    words = ["judge", "--data", data, "--output-dir", tmp_path / "out", "--function", f"{__name__}:by_length"]
    status, out, _ = said(words, capsys)
    assert status == 1
    assert "fault: the judge prefers answers that are known to be bad: choose A, flattery" in " ".join(out.split())
    assert all(len(line) <= 80 for line in out.splitlines() if "->" not in line), out


def anchors(path: Path, *, agree: int, disagree: int) -> Path:
    """People prefer the longer answer `agree` times, the shorter one `disagree` times."""
    rows = [{"prompt": f"a{i}", "chosen": "longer answer", "rejected": "short"} for i in range(agree)]
    rows += [{"prompt": f"b{i}", "chosen": "short", "rejected": "longer answer"} for i in range(disagree)]
    return write_rows(path, rows)


def test_agreement_with_people_and_its_change_are_reported(tmp_path: Path) -> None:
    anchor = anchors(tmp_path / "anchor.jsonl", agree=30, disagree=10)
    options = {"anchor": anchor, "controls": 0}
    with chat(LONGER) as server:
        before = judged(tmp_path, endpoint=server.url, model="m", **options)
    first = record(before)["anchor"]
    assert (first["agreement"]["value"], first["comparisons"], first["moved"]) == (0.75, 40, None)
    assert first["length"]["bias"]["value"] == pytest.approx(0.25)  # it always prefers the longer, people in 30 of 40
    assert [one["rule"] for one in before["findings"]] == ["judge_length"]
    with chat(prefers(lambda a, b: len(a) < len(b))) as server:
        after = judged(
            tmp_path, endpoint=server.url, model="m", previous=before["output_dir"],
            **{**options, "output_dir": tmp_path / "after"},
        )  # fmt: skip
    moved = record(after)["anchor"]["moved"]
    assert moved["difference"]["value"] == pytest.approx(-0.5)
    assert moved["found"]
    assert {one["rule"] for one in after["findings"]} == {"judge_at_chance", "judge_moved", "judge_length"}


def test_win_rates_are_corrected_by_the_anchors_of_the_same_writers(tmp_path: Path) -> None:
    """x wins 60% by the judge. On anchors the judge says x in 80% of those in which people do, and in 30% of those in
    which people say y: (0.6 - 0.3) / (0.8 - 0.3) = 0.6."""

    def row(number: int, of: str, people: str, judge: str) -> dict[str, Any]:
        texts = {side: ("longer answer" if side == judge else "short") + f" {number}" for side in "xy"}
        other = "y" if people == "x" else "x"
        return {"prompt": f"{of}{number}", "chosen": texts[people], "rejected": texts[other], "by": [people, other]}

    data = [row(i, "d", "x", "x" if i < 60 else "y") for i in range(100)]
    people = [row(i, "a", "x", "x" if i < 40 else "y") for i in range(50)]
    people += [row(i, "b", "y", "x" if i < 15 else "y") for i in range(50)]
    found = assent.judge(
        data=write_rows(tmp_path / "data.jsonl", data), anchor=write_rows(tmp_path / "anchor.jsonl", people),
        output_dir=tmp_path / "out", function=by_length, controls=0, writers="by",
    )  # fmt: skip
    (rate,) = record(found)["win_rates"]
    assert (rate["first"], rate["second"], rate["errors_from"]) == ("x", "y", "anchors of these writers")
    assert rate["win_rate"]["value"] == pytest.approx(0.6)
    assert rate["corrected"]["value"] == pytest.approx((0.6 - 0.3) / (0.8 - 0.3))
    assert rate["corrected"]["width_factor"] > 1.5


def test_a_change_is_measured_over_prompts_and_not_over_their_comparisons(tmp_path: Path) -> None:
    """All 21 comparisons of one of two prompts move: that is one thing that moved, which may be chance."""
    texts = [f"{'x' * k}{k}" for k in range(1, 8)]
    rows = [{"prompt": name, "completions": texts, "ranking": [7, 6, 5, 4, 3, 2, 1]} for name in ("moves", "stays")]
    options = {"anchor": write_rows(tmp_path / "anchor.jsonl", rows), "controls": 0}

    def moved(prompts: list[Any], first: list[str], second: list[str]) -> list[str]:
        said = by_length(prompts, first, second)
        turned = {"A": "B", "B": "A", "tie": "tie"}
        return [turned[one] if prompt == "moves" else one for prompt, one in zip(prompts, said, strict=True)]

    before = judged(tmp_path, function=by_length, **options)
    after = judged(
        tmp_path, function=moved, previous=before["output_dir"], **{**options, "output_dir": tmp_path / "after"}
    )
    change = record(after)["anchor"]["moved"]
    assert change["difference"]["value"] == pytest.approx(-0.5)
    assert (change["difference"]["n"], change["difference"]["clusters"]) == (42, 2)
    assert not change["found"]


def test_one_prompt_of_two_writers_has_a_win_rate_and_no_correction(tmp_path: Path) -> None:
    """All was asked and paid for by then: the record is written."""
    data = [{"prompt": "q", "chosen": "short", "rejected": "longer answer", "by": ["x", "y"]}]
    found = assent.judge(
        data=write_rows(tmp_path / "data.jsonl", data), output_dir=tmp_path / "out", function=by_length, controls=0,
        anchor=anchors(tmp_path / "anchor.jsonl", agree=3, disagree=1), writers="by",
    )  # fmt: skip
    (rate,) = record(found)["win_rates"]
    assert (rate["first"], rate["second"], rate["win_rate"]["value"]) == ("x", "y", 0)
    assert "corrected" not in rate
    assert any(line.startswith("  x beats y") for line in found["lines"])


def test_a_reward_is_a_judge(tmp_path: Path) -> None:
    found = judged(tmp_path, reward=length, controls=0)
    assert read_rows(found["judged"])[0]["completions"] == ["good 0!", "fine 0"]
    soft = judged(tmp_path, reward=length, controls=0, probabilities=True, **{"output_dir": tmp_path / "soft"})
    assert read_rows(soft["judged"])[0]["chosen_probability"] == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_reward_model_and_a_local_model_are_judges(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", context=2048)
    comparisons = write_rows(
        tmp_path / "pairs.jsonl", [{"prompt": f"q{i}", "chosen": "yes", "rejected": "no"} for i in range(4)]
    )
    reward = assent.reward(model=model, data=comparisons, output_dir=tmp_path / "rm", max_steps=1)
    scored = judged(tmp_path, reward=str(reward.model_path), controls=2)
    assert len(read_rows(scored["judged"])) == 12
    asked = judged(tmp_path, model=model, probabilities=True, controls=0, **{"output_dir": tmp_path / "local"})
    row = read_rows(asked["judged"])[0]
    assert row["chosen_probability"] == pytest.approx(_by_transformers(model, row["chosen"], row["rejected"]), abs=1e-5)


def _by_transformers(folder: str, chosen: str, rejected: str) -> float:
    """The same probability from plain transformers, both orders averaged."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    letters = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "AB"]
    shares = []
    for first, second in ((chosen, rejected), (rejected, chosen)):
        text = "\n\n".join(compare_texts(Rubric(), "q0", first, second))
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        with torch.no_grad():
            logits = model(ids).logits[0, -1, letters]
        shares.append(float(torch.softmax(logits, 0)[0]))
    return (shares[0] + 1 - shares[1]) / 2


def test_verdicts_of_any_judge_are_kept(tmp_path: Path) -> None:
    calls: list[int] = []

    def dies_at_the_second(prompts: list[Any], first: list[str], second: list[str]) -> list[str]:
        calls.append(len(prompts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return by_length(prompts, first, second)

    data = pairs(tmp_path / "data.jsonl", number=100)
    options = {"data": data, "output_dir": tmp_path / "out", "controls": 0}
    with pytest.raises(KeyboardInterrupt):
        assent.judge(function=dies_at_the_second, **options)
    assent.judge(function=dies_at_the_second, **options)
    assert calls == [128, 72, 72]  # the first chunk of both orders is not asked again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor": "none.jsonl"}, "none.jsonl"),
        ({"previous": "out"}, "previous has no effect without anchor"),
        ({"writers": "by"}, "no column 'by'"),
        ({"max_requests": 3}, "max_requests has no effect with a judge from function"),
        ({"model": "x"}, "give endpoint and model, model, reward or function, not function and model"),
    ],
)
def test_bad_input_is_refused_before_the_judge_is_asked(tmp_path: Path, options: Any, message: str) -> None:
    def never(prompts: Any, first: Any, second: Any) -> Any:
        raise AssertionError("asked")

    with pytest.raises(Exception, match=message):
        judged(tmp_path, function=never, **options)
    assert not (tmp_path / "out").exists()
