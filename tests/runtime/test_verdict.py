import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrdan_edge.bundle.decision import GraphDecision
from lrdan_edge.runtime.verdict import Thresholder, Verdict, Verdicts

SCORES = st.floats(-1e6, 1e6)


def decision(good: list[float], threshold: float = 1.0) -> GraphDecision:
    return GraphDecision(
        graph_sha256="0" * 64, threshold=threshold, false_reject_rate=0.02, n=len(good), good_scores=good, quantiles={}
    )


@given(st.lists(SCORES, min_size=1, max_size=50), SCORES, SCORES)
def test_outcome_and_p_value_by_counting(good: list[float], score: float, threshold: float) -> None:
    verdict = Thresholder(decision(good, threshold)).verdict(score)
    assert verdict.outcome == ("reject" if score > threshold else "good")
    assert verdict.p_value == (1 + sum(other >= score for other in good)) / (len(good) + 1)
    assert 0 < verdict.p_value <= 1


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_a_fault_and_never_good(score: float) -> None:
    verdict = Thresholder(decision([0.5])).verdict(score)
    assert verdict.outcome == "fault"
    assert verdict.score is None
    assert "cannot be trusted" in str(verdict.fault)


def test_a_given_threshold_replaces_the_calibrated_one() -> None:
    assert Thresholder(decision([0.5], threshold=1.0), threshold=3.0).verdict(2.0).outcome == "good"


def test_verdicts_are_a_sequence() -> None:
    thresholder = Thresholder(decision([0.5]))
    verdicts = Verdicts([thresholder.verdict(0.1), thresholder.verdict(2.0), thresholder.fault("gone")])
    assert [verdict.outcome for verdict in verdicts] == ["good", "reject", "fault"]
    assert len(verdicts[1:]) == 2
    assert isinstance(verdicts[1:], Verdicts)
    assert np.isnan(verdicts.scores).tolist() == [False, False, True]
    assert repr(verdicts) == "Verdicts(1 good, 1 reject, 1 fault)"


def test_json_has_no_heatmap() -> None:
    verdict = Verdict("good", 0.5, 1.0, 0.3, np.zeros((2, 2), np.float32))
    assert verdict.as_dict() == {"outcome": "good", "score": 0.5, "threshold": 1.0, "p_value": 0.3}
