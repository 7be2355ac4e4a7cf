"""What an inspector sees on a frame: the glow is where the score comes from, whatever the scale of scores is."""

import resource
import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrdan_edge.runtime.annotate import annotate, overlay
from lrdan_edge.runtime.verdict import Verdict

FRAME = np.random.default_rng(0).integers(0, 90, (40, 60, 3), np.uint8)
HEAT = np.random.default_rng(1).normal(-12, 1, (40, 60)).astype(np.float32)
HEAT[10:20, 30:40] = -2.0


def changed(heatmap: npt.NDArray[np.float32], maximum: float) -> npt.NDArray[np.bool_]:
    return np.asarray((overlay(FRAME, heatmap, maximum) != FRAME).any(2))


@pytest.mark.parametrize("full", [-2.0, -3.0, -2.5])
def test_only_a_defect_is_highlighted_even_with_negative_values(full: float) -> None:
    inside = np.zeros((40, 60), bool)
    inside[10:20, 30:40] = True
    assert (changed(HEAT, full) == inside).all()


@given(st.integers(-64, 64), st.sampled_from([0.25, 1.0, 4.0]))
@settings(max_examples=30, deadline=None)
def test_the_overlay_ignores_offset_and_unit_of_the_values(shift: int, unit: float) -> None:
    heat = (np.round(HEAT * 64) / 64).astype(np.float32)  # so that shifting and scaling are exact
    moved = (heat * unit + shift).astype(np.float32)
    np.testing.assert_array_equal(overlay(FRAME, moved, -2.0 * unit + shift), overlay(FRAME, heat, -2.0))


def test_a_mostly_defective_frame_is_highlighted_at_its_defects() -> None:
    heat = np.full((40, 60), 3.0, np.float32)
    heat[:, :5] = -9
    assert (changed(heat, -2.0) == (heat > 0)).all()


def test_values_that_are_not_finite_are_not_highlighted() -> None:
    heat = HEAT.copy()
    heat[0] = np.nan
    assert not changed(heat, -2.0)[0].any()
    assert not changed(np.full((40, 60), np.nan, np.float32), -2.0).any()


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1), (3648, 5472, 3), (2, 60000, 3), (40, 60, 3)])
def test_drawing_is_bounded_in_size_time_and_memory(shape: tuple[int, ...]) -> None:
    frame = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    drawn = annotate(frame, Verdict("reject", 2.0, 1.0, 0.01, np.eye(32, dtype=np.float32)))
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1 << 20, "1 GB"
    assert 320 <= drawn.shape[1] <= 2048 + 12
    assert max(drawn.shape) < 2300
    if max(shape) == 60:
        assert drawn.shape[1] == 8 * 60 + 12, "a small frame is enlarged as before"
