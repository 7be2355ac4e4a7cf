from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrdan_edge.calibration.methods import METHODS, Method
from lrdan_edge.calibration.ranges import BINS, ActivationRange, MagnitudeHistogram
from lrdan_edge.errors import CalibrationError


def counted(parts: list[npt.NDArray[Any]]) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram(len(parts))
    for part in parts:
        histogram.add(part)
    return histogram


def seen(good: Sequence[npt.NDArray[Any]], painted: Sequence[npt.NDArray[Any]]) -> ActivationRange:
    found = ActivationRange(len(good))
    for pair in zip(good, painted, strict=True):
        found.add(*pair)
    return found


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_a_streamed_percentile_matches_the_exact_one(seed: int, sizes: list[float]) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(0, size, 500).astype(np.float32) for size in sizes]
    whole = np.abs(np.concatenate(parts).astype(np.float64))
    histogram = counted(parts)
    assert histogram.counts.sum() == whole.size
    assert histogram.amplitude("min-max") == whole.max()
    for method in ("percentile-99.999", "percentile-99.997", "percentile-99.99"):
        exact = np.percentile(whole, float(method.removeprefix("percentile-")), method="higher")
        at_most = np.sort(whole)[max(0, np.searchsorted(np.sort(whole), exact) - 1)]
        assert at_most <= histogram.amplitude(method) <= exact * (1 + 1e-6)


def test_a_percentile_changes_no_more_than_the_values() -> None:
    """A histogram's bins moved it by a whole bin where one value crossed an edge: other processors made other int8 graphs."""
    values = np.random.default_rng(5).laplace(0, 1, 300_000).astype(np.float32)
    moved = (values * np.float32(1 + 3e-6)).astype(np.float32)
    for method in ("min-max", "percentile-99.999", "percentile-99.997", "percentile-99.99"):
        one, other = (counted(list(each.reshape(10, -1))).amplitude(method) for each in (values, moved))
        assert other == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("start", ["values", "zeros"])
def test_painted_methods_see_the_values_of_good_and_painted_images_together(start: str) -> None:
    rng = np.random.default_rng(3)
    good, painted = ([rng.laplace(0, size, 100_000).astype(np.float32) for size in sizes] for sizes in ((1, 2, 0.5), (3, 1, 4)))
    if start == "zeros":
        good[0] = np.zeros_like(good[0])
    together = counted([*good, *painted])
    found = seen(good, painted)
    assert found.amplitude("painted-min-max") == together.largest
    assert found.amplitude("painted-percentile-99.99") == together.amplitude("percentile-99.99")
    merged = found._good.merged(found._painted)
    assert merged.counts.sum() == together.counts.sum()
    assert merged.top >= together.largest


def test_defects_widen_only_the_ranges_of_painted_methods() -> None:
    rng = np.random.default_rng(0)
    good = [rng.normal(0, 1, 1000).astype(np.float32) for _ in range(3)]
    painted = [values * 4 for values in good]
    found = seen(good, painted)
    assert found.amplitude("min-max") == found.largest == max(np.abs(values).max() for values in good)
    assert found.amplitude("painted-min-max") == pytest.approx(4 * found.largest)
    assert found.amplitude("percentile-99.99") <= found.largest < found.amplitude("painted-percentile-99.99")


def test_a_few_outliers_widen_min_max_but_not_the_others() -> None:
    values = np.random.default_rng(0).laplace(0, 1, 1_000_000).astype(np.float32)
    values[:3] = 1000
    histogram = counted(list(values.reshape(10, -1)))
    amplitudes = {method: histogram.amplitude(method) for method in ("min-max", "percentile-99.99", "entropy")}
    assert amplitudes["min-max"] == 1000
    assert 5 < amplitudes["percentile-99.99"] < 15
    assert amplitudes["entropy"] < 100


def test_entropy_clips_where_information_is_lost_least() -> None:
    """Held to a second implementation, ONNX Runtime's."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    values = np.random.default_rng(3).laplace(0, 1, 400_000).astype(np.float32)
    collector = HistogramCollector(
        method="entropy", symmetric=True, num_bins=BINS, num_quantized_bins=255, percentile=99.99, scenario="same"
    )
    counts, edges = np.histogram(values, bins=2 * BINS + 1, range=(-np.abs(values).max(), np.abs(values).max()))
    theirs = collector.get_entropy_threshold((counts, edges, edges[0], edges[-1], edges[-1]), 255)
    assert counted([values]).amplitude("entropy") == pytest.approx(float(theirs[1]), rel=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_an_activation_that_is_always_zero_has_no_range(method: Method) -> None:
    zeros = [np.zeros(10, np.float32)] * 2
    assert seen(zeros, zeros).amplitude(method) == 0


def test_a_nan_activation_is_refused() -> None:
    with pytest.raises(CalibrationError, match="not finite"):
        counted([np.array([1, np.nan], np.float32)])
