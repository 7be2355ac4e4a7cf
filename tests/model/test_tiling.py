"""The graph's two ends against OpenCV and float64 NumPy, and what blending must not do."""

from math import floor
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from deploy import GEOMETRIES, geometry_for
from hypothesis import given, settings
from hypothesis import strategies as st
from specs import spec_for

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.bundle.view import Geometry
from lrdan_edge.data.images import cut_frame, fit_frame
from lrdan_edge.model.tiling import AreaResize, Tile, Untile, area_matrix, blend_weights


def smooth_image(rows: int, columns: int, channels: int = 1) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(rows * 1000 + columns)
    small = rng.integers(0, 256, (max(2, rows // 7), max(2, columns // 7), channels), np.uint8)
    image = cv2.resize(small, (columns, rows), interpolation=cv2.INTER_CUBIC).reshape(rows, columns, channels)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def area_average(before: int, after: int) -> npt.NDArray[np.float64]:
    """Each pixel after is the mean of the span of pixels it covers, fractions counted: by integrating, not by OpenCV."""
    scale = before / after
    matrix = np.zeros((after, before))
    for row in range(after):
        low, high = row * scale, (row + 1) * scale
        for column in range(floor(low), min(before, floor(high) + 1)):
            matrix[row, column] = max(0.0, min(high, column + 1) - max(low, column)) / scale
    return matrix


@given(st.integers(1, 400), st.data())
def test_the_matrix_is_the_area_average(before: int, data: st.DataObject) -> None:
    after = data.draw(st.integers(1, before))
    np.testing.assert_allclose(area_matrix(before, after, shrinks=True), area_average(before, after), atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 300), st.integers(20, 300), st.integers(8, 300), st.integers(8, 300))
def test_the_graph_resizes_as_training_does(rows: int, columns: int, height: int, width: int) -> None:
    image = smooth_image(rows, columns)
    expected = fit_frame(image, (height, width, 1)).astype(np.float64)[..., 0]
    module = AreaResize((rows, columns), (height, width))
    actual = module(torch.from_numpy(image).float().permute(2, 0, 1)[None])[0, 0].numpy()
    off = np.abs(actual - expected)
    if height <= rows and width <= columns:
        assert off.max() <= 1
        assert off.mean() <= 0.1, "but for halves, which float32 sums may end on either side of"
    else:  # OpenCV interpolates with eleven bits
        assert off.max() <= 1


@pytest.mark.parametrize(
    ("before", "after"), [((480, 640), (96, 128)), ((64, 96), (32, 48)), ((90, 60), (30, 20)), ((64, 64), (16, 64))]
)
def test_whole_ratios_agree_to_the_last_grey_level(before: tuple[int, int], after: tuple[int, int]) -> None:
    image = smooth_image(*before, 3)
    module = AreaResize(before, after)
    actual = module(torch.from_numpy(image).float().permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(actual, fit_frame(image, (*after, 3)))
    assert max(module.rows.numel(), module.columns.numel()) <= 5, "a whole ratio needs a small matrix alone"


def spec_of(geometry: str, channels: Any = 3) -> ModelSpec:
    return msgspec.structs.replace(spec_for(44, 36, channels), geometry=geometry_for(geometry, 44, 36))


@pytest.mark.parametrize("geometry", sorted(set(GEOMETRIES) - {"none"}))
@pytest.mark.parametrize("channels", [1, 3])
def test_the_graph_tiles_as_training_does(geometry: str, channels: int) -> None:
    spec = spec_of(geometry, channels)
    assert spec.geometry is not None
    frames = np.stack([smooth_image(*spec.frame_shape), 255 - smooth_image(*spec.frame_shape)])
    expected = np.concatenate([cut_frame(frame, spec) for frame in frames])
    actual = Tile(spec, spec.geometry)(torch.from_numpy(frames).float().permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert actual.shape == expected.shape == (2 * len(spec.tile_rows) * len(spec.tile_columns), 44, 36, channels)
    assert np.abs(actual - expected).max() <= 1
    assert (actual != expected).mean() < 0.02


grids = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 30), st.integers(0, 30))


def tiled(rows: int, columns: int, overlap: int, other: int) -> ModelSpec:
    canvas = (rows * 44 - (rows - 1) * overlap, columns * 36 - (columns - 1) * other)
    geometry = Geometry(frame=canvas, region=(0, 0, canvas[1], canvas[0]), canvas=canvas, tiles=(rows, columns))
    return msgspec.structs.replace(spec_for(44, 36, 1), geometry=geometry)


@settings(max_examples=40, deadline=None)
@given(grids)
def test_tiles_of_one_map_blend_to_that_map(grid: tuple[int, int, int, int]) -> None:
    spec = tiled(*grid)
    rows, columns = spec.heatmap_shape
    canvas = torch.rand(2, 1, rows, columns)
    tiles = [
        canvas[frame : frame + 1, :, top : top + 44, left : left + 36]
        for frame in range(2)
        for top in spec.tile_rows
        for left in spec.tile_columns
    ]
    torch.testing.assert_close(Untile(spec)(torch.cat(tiles)), canvas, atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(grids)
def test_weights_sum_to_one_everywhere(grid: tuple[int, int, int, int]) -> None:
    spec = tiled(*grid)
    for starts, tile in ((spec.tile_rows, 44), (spec.tile_columns, 36)):
        total = np.zeros(starts[-1] + tile)
        for start, weights in zip(starts, blend_weights(starts, tile), strict=True):
            total[start : start + tile] += weights
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_tiles_that_disagree_leave_no_seam() -> None:
    spec = tiled(1, 2, 0, 16)
    stitched = Untile(spec)(torch.stack([torch.zeros(1, 44, 36), torch.ones(1, 44, 36)]))[0, 0]
    steps = stitched.diff(dim=1)
    assert (steps >= 0).all()
    assert steps.max() <= 1 / 8 + 1e-6, "eight pixels of blending"
    assert stitched[0, :24].max() == 0, "the outer quarter of what they share belongs to the other tile"
    assert stitched[0, -24:].min() == 1


def test_a_nan_in_a_tile_reaches_the_score() -> None:
    spec = tiled(2, 2, 8, 8)
    maps = torch.zeros(4, 1, 44, 36)
    maps[3] = float("nan")
    assert Untile(spec)(maps).amax().isnan()
