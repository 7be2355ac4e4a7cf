import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrdan_edge import cli_options
from lrdan_edge.calibration.ranges import BINS, METHODS, MagnitudeHistogram
from lrdan_edge.errors import CalibrationError


def counted(parts: list[np.ndarray]) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram()
    for part in parts:
        histogram.add(part)
    return histogram


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_a_streamed_percentile_is_the_whole_ones_within_a_bin(seed: int, sizes: list[float]) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(0, size, 500).astype(np.float32) for size in sizes]
    whole = np.abs(np.concatenate(parts).astype(np.float64))
    histogram = counted(parts)
    assert histogram.counts.sum() == whole.size
    assert histogram.amplitude("min-max") == whole.max()
    bin_width = histogram.top / BINS
    for method in ("percentile-99.999", "percentile-99.99"):
        exact = np.percentile(whole, float(method.removeprefix("percentile-")), method="higher")
        assert exact - 1e-6 * exact <= histogram.amplitude(method) <= exact + 1.001 * bin_width  # type: ignore[arg-type]


def test_a_few_outliers_widen_min_max_but_not_the_others() -> None:
    values = np.random.default_rng(0).laplace(0, 1, 1_000_000).astype(np.float32)
    values[:3] = 1000
    histogram = counted(list(values.reshape(10, -1)))
    amplitudes = {method: histogram.amplitude(method) for method in METHODS}
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


def test_the_command_line_offers_every_method() -> None:
    assert list(METHODS) == cli_options.METHODS


@pytest.mark.parametrize("method", METHODS)
def test_an_activation_that_is_always_zero_has_no_range(method: str) -> None:
    assert counted([np.zeros(10, np.float32)] * 2).amplitude(method) == 0  # type: ignore[arg-type]


def test_an_activation_that_is_no_number_is_refused() -> None:
    with pytest.raises(CalibrationError, match="not finite"):
        counted([np.array([1, np.nan], np.float32)])
