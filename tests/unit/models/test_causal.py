"""A model that reads later tokens is refused: its log-probabilities would not be those of sampling."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedModel

from assent.errors import ModelError
from assent.models import kept_answers
from assent.models.heads import add_score_head
from assent.models.loading import draw_head
from assent.models.module import AlignmentModel
from assent.models.packing import pack
from assent.rollouts.decoding import probe
from tests.support.architectures import plain_logprobs, random_groups
from tests.support.causal_only import causal_only


def bert(**more: Any) -> PreTrainedModel:
    return causal_only("bert-decoder", **more)


@pytest.mark.parametrize("has_copy", [True, False])
def test_an_encoder_is_refused_in_training_and_in_sampling(has_copy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_copy:
        monkeypatch.setattr(kept_answers, "small_copy", lambda model, dtype: None)
    for kind in ("policy", "scorer"):
        model = bert(is_decoder=False)
        if kind == "scorer":
            draw_head(add_score_head(model, 1), seed=0)
        with pytest.raises(ModelError, match=r"later tokens(?s:.)*BertLMHeadModel(?s:.)*is_decoder"):
            AlignmentModel(model, kind=kind)
    with pytest.raises(ModelError, match="later tokens"):
        probe(bert(is_decoder=False))


def test_as_a_decoder_it_is_read() -> None:
    groups = random_groups()
    model = bert()
    expected = plain_logprobs(model, groups)
    found = AlignmentModel(model, kind="policy")(pack(groups, device="cpu"), frozenset({"logprobs"})).logprobs
    assert float((found - expected).detach().abs().max()) <= 1e-5
