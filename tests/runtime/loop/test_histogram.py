import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrdan_edge.runtime.histogram import LatencyHistogram

DURATIONS = st.lists(st.one_of(st.integers(0, 300), st.integers(0, 10**12), st.integers(0, 2**62)), min_size=1, max_size=200)


@given(DURATIONS, st.sampled_from([1, 50, 95, 99, 100]))
def test_percentiles_match_sorted_values_within_a_bucket(durations: list[int], percent: int) -> None:
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.record(duration)
    exact = float(np.percentile(np.array(durations, np.float64), percent, method="inverted_cdf"))
    assert histogram.percentile_ms(percent) * 1e6 == pytest.approx(exact, rel=1 / 128, abs=1e-6)
    assert histogram.percentiles_ms()["max"] * 1e6 == pytest.approx(max(durations))
    assert histogram.count == len(durations)


def test_negative_and_huge_durations_are_counted_too() -> None:
    histogram = LatencyHistogram()
    for duration in (-5, 1 << 80):
        histogram.record(duration)
    assert histogram.count == 2
    assert histogram.percentile_ms(50) == 0
    assert histogram.percentile_ms(100) > 0


def test_an_empty_histogram_says_zero() -> None:
    assert set(LatencyHistogram().percentiles_ms().values()) == {0.0}
