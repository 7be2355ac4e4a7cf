import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrdan_edge.calibration.decision import conformal_threshold, decide, images_needed, require_enough
from lrdan_edge.errors import CalibrationError


@given(st.integers(1, 400), st.floats(0.005, 0.5))
def test_images_needed_is_the_smallest_that_works(n: int, rate: float) -> None:
    rank = math.ceil(round((n + 1) * (1 - rate), 9))
    assert (n >= images_needed(rate)) is (rank <= n)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=60, max_size=200), st.sampled_from([0.02, 0.05, 0.1]))
def test_threshold_is_the_order_statistic_by_counting(scores: list[float], rate: float) -> None:
    threshold = conformal_threshold(np.array(scores, np.float32), rate)
    n, wanted = len(scores), math.ceil(round((len(scores) + 1) * (1 - rate), 9))
    assert sum(score <= threshold for score in scores) >= wanted
    assert sum(score < threshold for score in scores) < wanted
    assert sum(score > threshold for score in scores) / n <= rate


def test_the_promise_holds_on_average() -> None:
    """P(new score > threshold) ≤ α over calibration draws, and not far below it (Lei et al., 2018, Theorem 2.2)."""
    rng, rate, n = np.random.default_rng(0), 0.05, 99
    rejected = [
        (rng.gamma(2, size=200) > conformal_threshold(rng.gamma(2, size=n).astype(np.float32), rate)).mean()
        for _ in range(3000)
    ]
    error = np.std(rejected) / math.sqrt(len(rejected))
    assert np.mean(rejected) == pytest.approx(rate, abs=4 * error)


def test_too_few_images_say_how_many_are_needed() -> None:
    with pytest.raises(CalibrationError, match=r"48 held-out good images .* takes 49: .* 0\.021 or more"):
        require_enough(48, 0.02)
    require_enough(49, 0.02)
    require_enough(48, 0.021)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, float("nan")])
def test_rates_outside_zero_and_one_are_refused(rate: float) -> None:
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        require_enough(100, rate)


def test_scores_that_are_no_numbers_are_refused() -> None:
    scores = np.ones(100, np.float32)
    scores[3] = np.nan
    with pytest.raises(CalibrationError, match="1 of 100 good scores"):
        decide(scores, 0.02, "0" * 64)
