from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy

from edgebench import stats
from edgebench.compare import model_metrics, pair_metrics
from edgebench.metrics.base import METRICS, Context, Outputs, looks_like_probabilities

N, C = 60, 4


def outputs(seed: int, *, scale: float = 2.0) -> Outputs:
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(C, size=N)
    return Outputs(rng.normal(0, scale, (N, C)).astype(np.float32), labels)


def context(base: Outputs, *controls: Outputs) -> Context:
    return Context(base, controls, stats.bootstrap_weights(len(base.labels), 0, 200))


def test_against_scipy() -> None:
    base, variant = outputs(1), outputs(2)
    found = pair_metrics(variant, context(base, outputs(3)))
    p, q = softmax(base.values, axis=1), softmax(variant.values, axis=1)
    assert found["activation_distance"].point == pytest.approx(
        np.linalg.norm(p - q, axis=1).mean(), rel=1e-5
    )
    assert found["js_divergence"].point == pytest.approx(
        np.mean(jensenshannon(p, q, axis=1) ** 2), rel=1e-5
    )
    assert found["kl_divergence"].point == pytest.approx(entropy(p, q, axis=1).mean(), rel=1e-4)


def test_by_hand() -> None:
    labels = np.array([0, 1, 0, 1])
    base = Outputs(np.array([[2, 0], [0, 2], [0, 2], [0, 2]], np.float32), labels)
    variant = Outputs(np.array([[2, 0], [2, 0], [2, 0], [0, 2]], np.float32), labels)
    found = pair_metrics(variant, context(base))
    values, _ = model_metrics(variant)
    assert values["accuracy"] == 0.75
    assert found["accuracy_delta_pp"].point == 0
    assert found["prediction_disagreement"].point == 0.5
    assert found["negative_flips"].point == 0.25
    assert found["logit_cosine"].point == 0.5
    assert found["sqnr_db"].point == pytest.approx(0.0)
    assert "functional_preservation" not in found


def test_the_same_answers_are_the_same_function() -> None:
    base = outputs(1)
    same = Outputs(base.values.copy(), base.labels)
    found = pair_metrics(same, context(base, outputs(2), outputs(3)))
    assert found["functional_preservation"].point == 1
    assert found["activation_distance"].high == 0
    assert found["sqnr_db"].point is None
    assert found["sqnr_db"].method.startswith("identical")
    assert found["js_divergence"].point == pytest.approx(0, abs=1e-15)
    assert found["kl_divergence"].point == 0


def test_a_stranger_preserves_nothing() -> None:
    base, first, second = outputs(1), outputs(2), outputs(3)
    found = pair_metrics(first, context(base, second))["functional_preservation"]
    assert found.low < 0 < found.high or abs(found.point) < 0.2


def test_probabilities_are_understood() -> None:
    logits = outputs(1)
    probable = Outputs(logits.softmax.astype(np.float32), logits.labels, probabilities=True)
    assert looks_like_probabilities(probable.values)
    assert not looks_like_probabilities(logits.values)
    assert np.allclose(probable.softmax, logits.softmax, atol=1e-6)


@given(
    arrays(np.float32, (6, 3), elements=st.floats(-40, 40, width=32)),
    arrays(np.float32, (6, 3), elements=st.floats(-40, 40, width=32)),
)
def test_distances_stay_in_their_bounds(a: np.ndarray, b: np.ndarray) -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    found = pair_metrics(Outputs(b, labels), context(Outputs(a, labels)))
    assert 0 <= found["activation_distance"].point <= math.sqrt(2) + 1e-9
    assert 0 <= found["js_divergence"].point <= math.log(2) + 1e-9
    assert found["kl_divergence"].point >= 0
    assert -1 <= found["logit_cosine"].point <= 1


def test_calibration_error_of_a_known_case() -> None:
    # Ten answers with confidence about .73, of which 5 are right: the gap is about .23.
    values = np.tile(np.array([[1.0, 0.0]], np.float32), (10, 1))
    labels = np.array([0] * 5 + [1] * 5)
    confidence = math.e / (1 + math.e)
    assert model_metrics(Outputs(values, labels))[0]["ece"] == pytest.approx(confidence - 0.5)


def test_base_that_gets_nothing_right() -> None:
    labels = np.zeros(4, dtype=np.int64)
    wrong = Outputs(np.tile(np.array([[0, 1]], np.float32), (4, 1)), labels)
    assert "accuracy_deviation_pct" not in pair_metrics(wrong, context(wrong))


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_says_what_it_is(name: str) -> None:
    metric = METRICS.get(name)
    assert metric.title
    assert metric.meaning
    assert metric.better in {"higher", "lower"}
    functions = [metric.on_model, metric.on_pair]
    assert sum(f is not None for f in functions) == (0 if metric.of == "measured" else 1)
