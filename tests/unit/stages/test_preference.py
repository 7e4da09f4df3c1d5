"""`assent dpo`: its losses, references, rankings and ties, from rows to a finished run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from assent.config.loss_options import LossEntry
from assent.config.losses import PREFERENCE_LOSSES
from assent.config.stages import PreferenceConfig
from assent.engine.references import Reference
from assent.errors import ConfigError, DataError
from assent.models.batch import Outputs, TokenCompletion, TokenGroup
from assent.models.packing import pack
from assent.stages import preference
from assent.stages.preference import PreferenceObjective
from assent.stages.references import REFERENCE
from assent.stages.session import Session
from assent.types import Preference, PromptGroup
from tests.support.models import tiny_model
from tests.support.rows import comparison, group, read_rows
from tests.support.stages import write_inputs

Run = Callable[..., Path]
ROWS = [comparison(i) for i in range(8)]
RANKINGS = [
    group(0, "a", "bb", "ccc", preference=Preference(ranking=(2, 1, 3))),
    group(1, "dd", "e", preference=Preference(scores=(0.5, 1.5))),
    group(2, "f", "g", "hh", "ii", preference=Preference(ranking=(1, 2, 3, 4))),
    group(3, "jj", "k", "l", preference=Preference(ranking=(3, 2, 1), weight=2.0)),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    return {**write_inputs(folder), "other": tiny_model(folder / "other", seed=1)}


@pytest.fixture
def run(inputs: dict[str, str], tmp_path: Path) -> Run:
    """Two steps of `dpo` on rows; the run's folder."""

    def train(name: str = "run", *, data: Sequence[PromptGroup] = ROWS, **options: Any) -> Path:
        given = {"model": inputs["model"], "data": "rows", "output_dir": str(tmp_path / name), "max_length": 64}
        given |= {"learning_rate": 3e-3, "batch_size": 4, "max_steps": 2}
        reads = options.get("reference") != "logged" and not options.get("reference_sync_steps")
        if reads and options.get("loss_type") not in [
            n for n, loss in PREFERENCE_LOSSES.items() if not loss.needs_reference
        ]:
            given["reference_cache"] = str(tmp_path / "cache")
        preference.train(PreferenceConfig(**{**given, **options}), data=data)
        return tmp_path / name

    return train


def rows(folder: Path) -> list[dict[str, float]]:
    return read_rows(folder / "metrics.jsonl")


def steps(folder: Path) -> list[dict[str, float]]:
    return [row for row in rows(folder) if "learning_rate" in row]


def notes(folder: Path) -> str:
    return "\n".join(json.loads((folder / "run.json").read_text())["notes"])


@pytest.mark.parametrize("loss", PREFERENCE_LOSSES)
def test_every_loss_of_pairs_trains(loss: str, run: Run) -> None:
    declared = PREFERENCE_LOSSES[loss]
    first, second = steps(run(loss_type=loss))
    assert second["loss"] != first["loss"]
    assert first["grad_norm"] > 0
    gate = {name for row in rows(run(loss_type=loss)) for name in row if name.startswith("gate/")}
    assert ("gate/loss_at_zero_margin" in gate) == declared.needs_reference
    assert first["cost/models_resident"] == 1


def test_several_losses_are_their_weighted_sum(run: Run) -> None:
    losses = [
        {"name": "sigmoid", "weight": 2.0, "hyperparameters": {"beta": 0.3}},
        {"name": "ipo", "weight": 0.1},
        {"name": "sft", "weight": 0.5},
    ]
    folder = run(losses=losses)
    first = steps(folder)[0]
    assert first["loss/sigmoid"] == pytest.approx(2 * math.log(2), rel=1e-4)
    assert first["loss/ipo"] == pytest.approx(0.1 * 25, rel=1e-3)
    assert first["loss/sft"] == pytest.approx(0.5 * steps(run("sft", loss_type="sft"))[0]["loss"], rel=1e-5)
    assert first["loss"] == pytest.approx(sum(first[f"loss/{loss['name']}"] for loss in losses))
    assert any("gate/loss_at_zero_margin" in row for row in rows(folder))
    recorded = json.loads((folder / "run.json").read_text())["config"]["losses"]
    assert [entry["hyperparameters"].get("beta") for entry in recorded] == [0.3, 0.1, None]


def test_a_combination_with_a_wrong_weight_fails_the_gate(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from assent.errors import GateError

    original = preference.preference_loss

    def halved(name: str, **keywords: Any) -> Any:
        values, metrics = original(name, **keywords)
        return (values / 2 if name == "hinge" else values), metrics

    monkeypatch.setattr(preference, "preference_loss", halved)
    with pytest.raises(GateError, match="loss_at_zero_margin"):
        run(losses=["sigmoid", "hinge"])


def two_groups() -> list[TokenGroup]:
    """Three completions and two; implicit rewards at beta 0.5: 1, 0, −0.5 and 0.25, 0.75."""

    def of(*reference: float, ranks: Sequence[int]) -> TokenGroup:
        fields = {REFERENCE: np.array(reference), "rank": np.array(ranks)}
        return TokenGroup((3,), tuple(TokenCompletion((4,)) for _ in ranks), completion=fields)

    return [of(-4.0, -2.0, -1.0, ranks=(1, 2, 3)), of(-1.5, -2.5, ranks=(1, 2))]


def test_plackett_luce_dpo_by_hand() -> None:
    objective = PreferenceObjective([LossEntry(name="plackett_luce", hyperparameters={"beta": 0.5})])
    batch = pack(two_groups(), device="cpu")
    logprobs = torch.tensor([-2.0, -2.0, -2.0, -1.0, -1.0])
    sums, means = objective(Outputs(logprobs=logprobs), batch)
    e = math.exp
    first = math.log(e(1) + e(0) + e(-0.5)) - 1 + math.log(e(0) + e(-0.5)) - 0
    second = math.log(e(0.25) + e(0.75)) - 0.25
    assert float(sums["plackett_luce"]) == pytest.approx(first + second, rel=1e-6)
    assert objective.counts(batch) == {"plackett_luce": 2.0}
    found = {name: float(total / count) for name, (total, count) in means.items()}
    assert found["rewards/margins"] == pytest.approx((1.5 - 0.5) / 2)
    assert found["rewards/accuracies"] == pytest.approx(0.5)
    assert found["rewards/chosen"] == pytest.approx((1 + 0.25) / 2)
    assert found["logps/rejected"] == pytest.approx(-1.5)


@pytest.mark.parametrize("loss", ["plackett_luce", "all_pairs", "davidson", "rao_kupper"])
def test_rankings_of_unequal_size_train(loss: str, run: Run) -> None:
    folder = run(loss_type=loss, data=RANKINGS)
    assert any("gate/loss_at_zero_margin" in row for row in rows(folder))
    first = steps(folder)[0]
    if loss == "plackett_luce":  # ln 3! and ln 2! and ln 4! and twice ln 3!
        expected = (3 * math.log(6) + math.log(2) + math.log(24)) / 5
        assert first["loss"] == pytest.approx(expected, rel=1e-4)


def test_ties_are_used_by_losses_that_model_them_and_refused_by_others(run: Run) -> None:
    tied = [replace(row, preference=Preference(ranking=(1, 1))) for row in ROWS[:3]]
    assert steps(run("ties", loss_type="rao_kupper", data=[*tied, *ROWS[3:]], batch_size=8, max_steps=1))
    assert "refused: 3" not in notes(
        run("ties", loss_type="rao_kupper", data=[*tied, *ROWS[3:]], batch_size=8, max_steps=1)
    )
    assert "refused: 3 (a tie" in notes(run("pairs", data=[*tied, *ROWS[3:]]))


@pytest.mark.parametrize(
    ("loss", "column", "value"),
    [
        ("ipo", "margin", 0.5),
        ("aot", "chosen_probability", 0.7),
        ("plackett_luce", "margin", 0.5),
        ("aot", "weight", 2.0),
    ],
)
def test_a_column_that_the_loss_cannot_use_is_refused(loss: str, column: str, value: float, run: Run) -> None:
    with pytest.raises(DataError, match="cannot use") as caught:
        run(loss_type=loss, data=[comparison(0, **{column: value}), *ROWS[1:]])
    assert column in str(caught.value)


def test_of_a_sum_every_loss_must_read_a_soft_label_and_one_a_margin(run: Run) -> None:
    certain = {"losses": ["sigmoid", "aot"], "max_steps": 1}  # aot would take 0.7 for 1
    with pytest.raises(DataError, match="chosen_probability, with loss sigmoid, aot"):
        run(data=[comparison(0, chosen_probability=0.7), *ROWS[1:]], **certain)
    assert steps(run("margin", data=[comparison(0, margin=0.5), *ROWS[1:]], losses=["sigmoid", "ipo"], max_steps=1))
    soft = [comparison(0, chosen_probability=0.7), *ROWS[1:]]
    assert steps(run("soft", data=soft, losses=["sigmoid", "ipo"], max_steps=1))


def logged(run: Run, rows_: Sequence[PromptGroup]) -> list[PromptGroup]:
    """The rows with the log-probabilities that the reference pass of a run would give."""
    found: list[TokenGroup] = []
    original = Session.resume

    def keep(self: Session) -> None:
        found.extend(self.train_tokens)
        original(self)

    Session.resume = keep  # type: ignore[method-assign]
    try:
        run("for-its-numbers", data=rows_)
    finally:
        Session.resume = original  # type: ignore[method-assign]
    numbers = [tuple(float(x) for x in token.completion[REFERENCE]) for token in found]
    return [replace(row, logps=numbers[i]) for i, row in enumerate(rows_)]


def test_logged_log_probabilities_train_as_the_model_that_they_are_of(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = logged(run, ROWS)
    monkeypatch.setattr(Reference, "__init__", lambda *_: pytest.fail("a reference model was made"))
    folder = run("logged", data=data, reference="logged")
    assert steps(folder)[0]["cost/models_resident"] == 1
    ours = load_file(folder / "model" / "model.safetensors")
    theirs = load_file(folder.parent / "for-its-numbers" / "model" / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda logps, i: (logps[0] / 20, logps[1] / 20), "cannot be sums"),
        (lambda logps, i: (logps[0] * 20, logps[1] * 20), "cannot be sums"),
        (lambda logps, i: (-60.0 if i % 2 else -30.0, -30.0 if i % 2 else -60.0), "do not belong"),
    ],
    ids=["means", "other units", "other rows"],
)
def test_logged_numbers_that_cannot_belong_are_refused(spoil: Any, said: str, run: Run, tmp_path: Path) -> None:
    data = logged(run, [comparison(i) for i in range(12)])
    spoilt = [replace(row, logps=spoil(row.logps, i)) for i, row in enumerate(data)]
    with pytest.raises(DataError, match=said):
        run("spoilt", data=spoilt, reference="logged")
    assert not (tmp_path / "spoilt").exists()


def test_rows_without_logged_numbers_are_refused_and_counted(run: Run) -> None:
    data = logged(run, ROWS)
    folder = run("some", data=[replace(data[0], logps=None), *data[1:]], reference="logged")
    assert "refused: 1 (no logged log-probabilities" in notes(folder)


def test_a_reference_that_follows_is_moved_by_its_share_and_stops_there(run: Run, inputs: dict[str, str]) -> None:
    still = run("still", max_steps=3)
    moved = run("moved", max_steps=3, reference_sync_steps=2, reference_mixup_alpha=0.25, save_steps=1)
    assert steps(moved)[0]["cost/models_resident"] == 2
    for step in range(2):  # the reference is the start until the second update
        assert steps(moved)[step]["loss"] == pytest.approx(steps(still)[step]["loss"], rel=1e-5)
    assert steps(moved)[2]["loss"] != pytest.approx(steps(still)[2]["loss"], rel=1e-4)
    start = load_file(Path(inputs["model"]) / "model.safetensors")
    policy = load_file(moved / "checkpoints" / "step-2" / "model" / "model.safetensors")
    reference = load_file(moved / "checkpoints" / "step-2" / "reference" / "model.safetensors")
    for name, weight in reference.items():
        expected = 0.75 * start[name.removeprefix("hf.")] + 0.25 * policy[name]
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)
    facts = json.loads((moved / "run.json").read_text())["facts"]["fingerprints"]
    assert (
        facts["reference_after_last_sync_start"] == facts["reference_after_last_sync_end"] != facts["reference_start"]
    )
    assert "moved towards the policy 1 times" in notes(moved)


def test_the_reference_cache_knows_the_models_configuration(run: Run, inputs: dict[str, str], tmp_path: Path) -> None:
    """The same weights with another rotary base are another reference."""
    other = tmp_path / "edited"
    for path in Path(inputs["other"]).iterdir():
        other.mkdir(exist_ok=True)
        (other / path.name).write_bytes(path.read_bytes())
    run("first", reference=inputs["other"])
    assert notes(run("again", reference=inputs["other"])).count("read from the cache") == 1
    timed = [
        (tmp_path / name / "metrics.jsonl").read_text().count("perf/reference_seconds") for name in ("first", "again")
    ]
    assert timed == [1, 0]
    config = json.loads((other / "config.json").read_text())
    assert "rope_theta" in json.dumps(config)
    text = json.dumps(config).replace('"rope_theta": 10000.0', '"rope_theta": 77.0')
    assert text != json.dumps(config)
    (other / "config.json").write_text(text)
    found = run("edited-run", reference=str(other))
    assert "read from the cache" not in notes(found)
    assert steps(found)[0]["loss"] != steps(tmp_path / "first")[0]["loss"]


def test_a_reference_of_another_tokenizer_is_refused_before_anything_is_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(tmp_path / "alien", texts=["wholly other words"] * 9)
    monkeypatch.setattr(preference, "open_session", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(ConfigError, match="another tokenizer"):
        run(reference=str(tmp_path / "alien"))
