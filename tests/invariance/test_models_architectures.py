"""Every architecture gets its tier, and packed reads give the plain model's log-probabilities, scores and gradients."""

from __future__ import annotations

import pytest

from assent.models.module import AlignmentModel
from assent.models.packing import pack
from tests.support.architectures import (
    ARCHITECTURES,
    assert_same_gradients,
    gradients,
    make_model,
    plain_logprobs,
    plain_scores,
    random_groups,
    weighted,
)

LOGPROBS = frozenset({"logprobs"})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_log_probabilities_and_gradients_equal_the_plain_models(name: str) -> None:
    model = make_model(name)
    groups = random_groups()
    expected = plain_logprobs(model, groups)
    expected_gradients = gradients(model, weighted(expected))
    module = AlignmentModel(model, kind="policy")
    assert module.tier == ARCHITECTURES[name][2], module.tier_reason
    assert module.has_chunked_head
    logprobs = module(pack(groups, device="cpu"), LOGPROBS).logprobs
    assert float((logprobs - expected).abs().max()) <= 1e-5
    assert_same_gradients(gradients(model, weighted(logprobs)), expected_gradients)


WITHOUT_CLASSIFIER = {"cohere", "granite", "mamba", "olmoe", "recurrent-gemma"}


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in WITHOUT_CLASSIFIER])
def test_packed_scores_equal_the_plain_classifiers(name: str) -> None:
    model = make_model(name, kind="scorer")
    groups = random_groups()
    expected = plain_scores(model, groups)[:, 0]
    expected_gradients = gradients(model, weighted(expected))
    module = AlignmentModel(model, kind="scorer")
    assert module.tier == ARCHITECTURES[name][2], module.tier_reason
    scores = module(pack(groups, device="cpu"), frozenset({"scores"})).scores
    assert float((scores - expected).abs().max()) <= 1e-5
    assert_same_gradients(gradients(model, weighted(scores)), expected_gradients)
