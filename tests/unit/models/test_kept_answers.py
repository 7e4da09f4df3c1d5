"""What a probe found on small copies is kept, found again, and asked anew when anything that it depends on changes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from assent.models import kept_answers, segments
from assent.models.module import AlignmentModel
from assent.rollouts import cohorts, decoding
from assent.runs.files import user_cache
from tests.support.architectures import make_model
from tests.support.models import tiny_llama


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The types of the copies that were asked."""
    asked: list[torch.dtype] = []
    original = kept_answers.small_copy

    def spy(model: PreTrainedModel, *, dtype: torch.dtype) -> PreTrainedModel | None:
        asked.append(dtype)
        return original(model, dtype=dtype)

    monkeypatch.setattr(kept_answers, "small_copy", spy)
    return asked


def tier_of(model: PreTrainedModel, **more: Any) -> str:
    return AlignmentModel(model, kind="policy", **more).tier


def files() -> list[Path]:
    return sorted((user_cache() / "probes").glob("*"))


def test_a_kept_answer_is_used_for_other_weights(copies: list[torch.dtype]) -> None:
    assert [tier_of(tiny_llama(seed=seed)) for seed in (0, 1)] == ["segments"] * 2
    assert copies == [torch.float32]
    assert [decoding.probe(tiny_llama(seed=seed)) for seed in (0, 1)] == [("cohorts", "fastest")] * 2
    assert copies == [torch.float32] * 2
    named = tiny_llama()
    named.config._name_or_path = "another/place"
    tier_of(named)
    assert len(copies) == len(files()) == 2


def test_other_configurations_types_versions_and_sources_are_asked_anew(
    copies: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    tier_of(tiny_llama())
    tier_of(tiny_llama(num_hidden_layers=3))
    assert copies == [torch.float32] * 2
    tier_of(tiny_llama().bfloat16())
    assert sorted(map(str, copies[2:])) == ["torch.bfloat16", "torch.float32"]
    AlignmentModel(tiny_llama(kind="scorer"), kind="scorer")
    with monkeypatch.context() as changed:
        changed.setattr(kept_answers, "versions", lambda: {"torch": "9.9"})
        tier_of(tiny_llama())
    with monkeypatch.context() as changed:
        changed.setattr(kept_answers, "_source", lambda: "another")
        tier_of(tiny_llama())
    assert len(copies) == 7
    tier_of(tiny_llama())
    assert len(copies) == 7


def test_the_source_of_reading_and_decoding_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kept_answers, "_PACKAGE", tmp_path)
    hashes = []
    for part, text in (("models", "1"), ("models", "2"), ("rollouts", "1"), ("stages", "1")):
        (tmp_path / part).mkdir(exist_ok=True)
        (tmp_path / part / "tiers.py").write_text(text)
        kept_answers._source.cache_clear()
        hashes.append(kept_answers._source())
    kept_answers._source.cache_clear()
    assert len(set(hashes)) == 3
    assert hashes[2] == hashes[3]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff\x00", b"[]", b"{}", b"null", b"[" * 5000, b'{"refused": {"segments": null}, "facts": {}}'),
        b'{"refused": {"segments": 1, "mask": null, "padded": null}, "facts": {"is_short": "yes"}}',
    ],
)
def test_a_damaged_answer_is_asked_again_and_written_anew(content: bytes, copies: list[torch.dtype]) -> None:
    tier_of(tiny_llama())
    (file,) = files()
    whole = file.read_bytes()
    file.write_bytes(content)
    assert tier_of(tiny_llama()) == "segments"
    assert len(copies) == 2
    assert file.read_bytes() == whole
    assert files() == [file]  # nothing temporary is left


def test_an_altered_answer_is_asked_again(copies: list[torch.dtype]) -> None:
    tier_of(tiny_llama())
    (file,) = files()
    file.write_text(file.read_text().replace("true", "false", 1))
    tier_of(tiny_llama())
    assert len(copies) == 2


@pytest.mark.parametrize("fault", ["no folder", "read-only", "no home"])
def test_without_a_folder_to_write_each_model_is_asked(
    fault: str, copies: list[torch.dtype], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if fault == "no folder":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("ASSENT_CACHE", str(tmp_path / "file" / "cache"))
    elif fault == "read-only":

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(kept_answers, "write_json", refuse)
    else:
        monkeypatch.delenv("ASSENT_CACHE")

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
    assert [tier_of(tiny_llama()) for _ in range(2)] == ["segments"] * 2
    assert len(copies) == 2


def test_a_tier_that_ignores_a_long_window_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that confirm the tier on the model's own weights are far shorter than the window."""
    assert tier_of(make_model("mistral", sliding_window=40)) == "segments"
    original = segments.Bucket.mask
    monkeypatch.setattr(segments.Bucket, "mask", lambda self, window, dtype: original(self, None, dtype))
    monkeypatch.setattr(kept_answers, "_source", lambda: "with the fault")
    module = AlignmentModel(make_model("mistral", sliding_window=40), kind="policy")
    assert module.tier == "padded"
    assert "segments: differs from the plain model" in module.tier_reason
    assert "mask: differs from the plain model" in module.tier_reason


def test_a_decoder_that_ignores_a_long_window_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("mistral", sliding_window=40)
    assert decoding.probe(model)[0] == "cohorts"
    original = cohorts.Cohort.bias
    monkeypatch.setattr(cohorts.Cohort, "bias", lambda self, window, dtype: original(self, None, dtype))
    monkeypatch.setattr(kept_answers, "_source", lambda: "with the fault")
    name, reason = decoding.probe(make_model("mistral", sliding_window=40))
    assert name == "dynamic"
    assert "cohorts: differs by" in reason


def odd_where_longer_than(model: PreTrainedModel, tokens: int) -> PreTrainedModel:
    """A model that differs from its copy: longer rows are read otherwise."""

    def change(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output * (1.5 if output.shape[1] > tokens else 1.0)

    model.model.layers[0].mlp.register_forward_hook(change)
    return model


def test_a_tier_that_the_own_weights_do_not_confirm_is_refused() -> None:
    module = AlignmentModel(odd_where_longer_than(make_model("llama"), 7), kind="policy")
    assert module.tier == "padded"
    assert "segments: differs from the plain model" in module.tier_reason


def test_a_decoder_that_the_own_weights_do_not_confirm_is_refused() -> None:
    assert decoding.probe(odd_where_longer_than(make_model("llama"), 5))[0] == "reread"


def test_where_no_copy_can_be_made_the_own_weights_are_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_answers, "small_copy", lambda model, dtype: None)
    assert tier_of(make_model("llama")) == "segments"
    assert tier_of(make_model("phi3")) == "segments"
    assert tier_of(make_model("mamba")) == "padded"
    assert decoding.probe(make_model("llama")) == ("cohorts", "fastest")
    assert decoding.probe(make_model("bloom"))[0] == "dynamic"
    assert files() == []
