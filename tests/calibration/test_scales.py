"""Scales that leave integer kernels nothing to differ in."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrdan_edge.calibration.scales import round_to_steps, weight_scales, without_ties

ONE_STEP = st.floats(1e-4, 1.0).map(lambda value: float(np.float32(value)))


def distance_from_halves(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(np.abs(values - np.floor(values) - 0.5))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), most=st.sampled_from([64, 127]), source=ONE_STEP, result=ONE_STEP)
def test_no_sum_of_products_lies_halfway_between_two_output_steps(seed: int, most: int, source: float, result: float) -> None:
    weight = np.random.default_rng(seed).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    scale = weight_scales(weight, most, source, result)
    sums = np.arange(-50_000, 50_001, dtype=np.float64)
    for step in scale.astype(np.float64):
        values = sums * (source * step / result)
        inside = np.abs(values) <= 128  # beyond, they saturate
        assert distance_from_halves(values[inside]).min() > 1e-6 * max(1.0, float(np.abs(values[inside]).max()))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), source=ONE_STEP, result=st.none() | ONE_STEP)
def test_a_weights_scale_changes_by_at_most_one_percent(seed: int, source: float, result: float | None) -> None:
    weight = np.random.default_rng(seed).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    weight[1] = 0
    least = np.abs(weight).reshape(4, -1).max(axis=1) / 127
    scale = weight_scales(weight, 127, source, result)
    assert scale[1] == 1
    others = [0, 2, 3]
    assert (scale[others] >= least[others] * (1 - 1e-6)).all()
    assert (scale[others] <= least[others] * 1.0101).all()


@settings(deadline=None, max_examples=60)
@given(ratio=st.floats(0.3, 3.0), slope=st.sampled_from([0.01, 0.1, 0.2, 0.25]))
def test_no_value_of_a_leaky_relu_lies_halfway_between_two_steps(ratio: float, slope: float) -> None:
    """Equal scales before and after put every tenth negative value, times 0.1, on a half."""
    source = without_ties(ratio, [(slope, 1.0)])
    assert ratio * (1 - 1e-6) <= source <= ratio * 1.021
    steps = np.arange(-128, 128, dtype=np.float64)
    values = np.where(steps < 0, steps * np.float64(np.float32(slope)), steps) * source
    inside = np.abs(values) <= 128
    assert distance_from_halves(values[inside]).min() > 3e-4


def test_a_scale_that_would_give_ties_is_enlarged() -> None:
    assert without_ties(1.0, [(0.1, 1.0)]) > 1.0


def test_a_bias_is_a_whole_number_of_steps() -> None:
    bias, step = np.array([0.1234, -7.7, 0.0], np.float32), np.array([1e-3, 2e-2, 1.0], np.float32)
    rounded = round_to_steps(bias, step)
    assert rounded / step == pytest.approx(np.rint(bias / step))
    assert (np.abs(rounded - bias) <= step / 2 * (1 + 1e-4)).all()
