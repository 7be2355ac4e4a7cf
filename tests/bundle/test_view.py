"""The geometry's arithmetic: tiles cover their canvas, regions stay in their frame, whatever the numbers."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lrdan_edge.bundle.encoding import from_json, to_json
from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.bundle.view import Geometry, blend_zones, fractions_to_pixels, tile_starts, tiles_needed
from lrdan_edge.errors import BundleError

SPEC = ModelSpec(
    recipe="lrdan",
    height=64,
    width=96,
    channels=3,
    base_channels=16,
    latent_channels=8,
    downsamplings=3,
    decoder="resize",
    geometry=Geometry(frame=(400, 600), region=(20, 10, 500, 300), canvas=(112, 260), tiles=(2, 3)),
)

sides = st.integers(28, 512)


@given(sides, st.integers(1, 3000), st.data())
def test_the_fewest_tiles_cover_the_canvas_and_overlap_enough(tile: int, canvas: int, data: st.DataObject) -> None:
    assume(canvas >= tile)
    overlap = data.draw(st.integers(0, tile // 2))
    count = tiles_needed(canvas, tile, overlap)
    starts = tile_starts(canvas, tile, count)
    assert starts[0] == 0
    assert starts[-1] + tile == canvas
    shared = [before + tile - after for before, after in pairwise(starts)]
    assert all(overlap <= pixels < tile for pixels in shared)
    assert count == 1 or (count - 2) * (tile - overlap) + tile < canvas, "one tile fewer would not do"


@given(sides, st.integers(2, 20), st.data())
def test_blend_zones_lie_within_overlaps_and_do_not_touch(tile: int, count: int, data: st.DataObject) -> None:
    canvas = data.draw(st.integers(tile + count - 1, tile * count))
    starts = tile_starts(canvas, tile, count)
    zones = blend_zones(starts, tile)
    assert len(zones) == count - 1
    for index, (begin, end) in enumerate(zones):
        assert starts[index + 1] <= begin <= end <= starts[index] + tile
    assert all(before[1] <= after[0] for before, after in pairwise(zones))


@pytest.mark.parametrize(("canvas", "tile", "count"), [(100, 64, 1), (200, 64, 3), (63, 64, 1), (64, 64, 2), (70, 64, 10)])
def test_tiles_that_do_not_cover_the_canvas_are_refused(canvas: int, tile: int, count: int) -> None:
    with pytest.raises(ValueError, match=rf"{count} tiles of {tile} pixels leave gaps in {canvas} pixels"):
        tile_starts(canvas, tile, count)


@given(st.tuples(*[st.floats(0, 1)] * 4), st.integers(1, 2000), st.integers(1, 2000))
def test_a_fraction_is_at_least_one_pixel_and_inside_the_image(
    share: tuple[float, float, float, float], rows: int, columns: int
) -> None:
    left, top, width, height = fractions_to_pixels(share, rows, columns)
    assert 0 <= left < left + width <= columns
    assert 0 <= top < top + height <= rows


def test_another_camera_with_the_same_view_keeps_region_and_tiles() -> None:
    assert SPEC.geometry is not None
    twice = SPEC.geometry.of_frame(800, 1200)
    assert twice == Geometry(frame=(800, 1200), region=(40, 20, 1000, 600), canvas=(112, 260), tiles=(2, 3))
    assert twice.region_fractions == SPEC.geometry.region_fractions
    assert twice.of_frame(400, 600) == SPEC.geometry


def test_the_model_specification_gives_input_and_output_shapes() -> None:
    assert SPEC.frame_shape == (400, 600, 3)
    assert SPEC.heatmap_shape == (112, 260)
    assert (SPEC.tile_rows, SPEC.tile_columns) == ([0, 48], [0, 82, 164])
    assert from_json(to_json(SPEC), ModelSpec, "model") == SPEC
    plain = msgspec.structs.replace(SPEC, geometry=None)
    assert (plain.frame_shape, plain.heatmap_shape, plain.tile_rows) == ((64, 96, 3), (64, 96), [0])
    assert plain.region_fractions is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"region": [200, 0, 500, 300]}, "extends beyond the frame 400x600"),
        ({"canvas": [500, 260]}, "2 tiles of 64 pixels leave gaps in 500 pixels"),
        ({"tiles": [0, 3]}, "tiles"),
        ({"frame": [0, 600]}, "frame"),
        ({"tilt": 3}, "tilt"),
    ],
)
def test_an_invalid_geometry_is_refused_when_read(change: dict[str, object], words: str) -> None:
    fields = msgspec.to_builtins(SPEC)
    fields["geometry"] |= change
    with pytest.raises(BundleError, match=words):
        from_json(msgspec.json.encode(fields), ModelSpec, "manifest.json")
