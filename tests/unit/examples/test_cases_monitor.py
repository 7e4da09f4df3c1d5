"""Cases 18 and 27: what the logs of a deployed model hold, and what moved in them."""

from __future__ import annotations

import pytest

from tests.support.cases import answer, case


def test_18_what_the_logs_hold_decides(capsys: pytest.CaptureFixture[str]) -> None:
    found, out = answer("18", capsys)
    logs = found["logs"]
    assert {log["ppo"] for log in logs.values()} == {"not sound"}
    assert [log["thumbs"] for log in logs.values()] == [
        "sound",
        "sound",
        "not possible",
        "sound",  # of the ratings since taste has moved, which are enough
        "not sound",
        "sound",
    ]
    assert [log["reference"] for log in logs.values()] == [
        "sound",
        "not possible",
        "not possible",  # nothing is rated
        "sound",
        "sound",
        "not sound",
    ]
    assert max(found["dpo_on_logs"], found["dpo_evenly"]) < 0.01
    assert found["cosine_as_if_own"] < 0.99 < 1 - 1e-9 < found["cosine_weighted"]
    assert found["outside_clip"] > 0.3
    assert "the loss does not ask who sampled" in out


def test_27_drift_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    main = case("27").main
    capsys.readouterr()
    found = main(small=True)
    assert list(found.values()) == [
        [], ["prompts_moved"], ["taste_moved"], ["reward_model_aged"], ["serving_differs"]
    ]  # fmt: skip
    assert "first found on day" in capsys.readouterr().out
