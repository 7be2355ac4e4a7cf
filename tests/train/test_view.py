"""What users ask to see, and the geometry that follows."""

import shlex
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lrdan_edge.bundle.command import Command
from lrdan_edge.cli.main import cli
from lrdan_edge.cli.view_options import ROI, SIZE, TILES
from lrdan_edge.errors import DataError
from lrdan_edge.train.view import View


def test_by_default_an_image_is_a_frame() -> None:
    assert View().is_default
    assert View().geometry((300, 400), (96, 128)) is None


def test_a_grid_is_scaled_so_that_tiles_have_the_networks_size() -> None:
    geometry = View(region=(10, 20, 300, 200), tiles=(2, 3), overlap=16).geometry((300, 400), (64, 64))
    assert geometry is not None
    assert geometry.region == (10, 20, 300, 200)
    assert geometry.canvas == (112, 160)
    assert geometry.tiles == (2, 3)


def test_native_tiles_keep_the_frames_resolution() -> None:
    view = View(tiles="native")
    assert view.image_size((2048, 2448)) == (256, 256)
    geometry = view.geometry((2048, 2448), (256, 256))
    assert geometry is not None
    assert geometry.canvas == (2048, 2448)
    assert geometry.tiles == (9, 11)
    assert view.image_size((203, 900)) == (200, 256)
    narrow = view.geometry((203, 900), (200, 256))
    assert narrow is not None
    assert (narrow.canvas, narrow.tiles) == ((200, 900), (1, 4)), "three rows more are no second row of tiles"


def test_tiles_overlap_by_an_eighth_by_default() -> None:
    geometry = View(tiles=(1, 2)).geometry((64, 128), (64, 64))
    assert geometry is not None
    assert geometry.canvas == (64, 120)


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ({"overlap": 4}, "needs tiles"),
        ({"tiles": "many"}, "tiles must be rows and columns or native"),
        ({"tiles": (2, 2), "overlap": 40}, "cannot overlap by 40: give overlap from 0 to 32"),
        ({"region": (300, 0, 200, 100)}, "extends beyond the frame 300x400: give another region"),
        ({"region": (0, 0, 40, 40), "tiles": "native"}, "leave gaps in 40 pixels, or extend beyond them: give another region"),
    ],
)
def test_what_cannot_be_seen_is_refused(view: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        View(**view).geometry((300, 400), (64, 64))


counts, pixels = st.integers(1, 64), st.integers(1, 65535)


@given(
    st.none() | st.tuples(pixels, pixels),
    st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 65535), pixels, pixels),
    st.just("native") | st.tuples(counts, counts),
    st.none() | st.integers(0, 100),
)
def test_the_recorded_command_line_repeats_the_view(
    frame_size: tuple[int, int] | None,
    region: tuple[int, int, int, int] | None,
    tiles: tuple[int, int] | str,
    overlap: int | None,
) -> None:
    view = View(frame_size, region, tiles, overlap)
    words = shlex.split(str(Command("train", **view.options())))[2:]
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    parsed = View(
        SIZE.convert(pairs["--frame-size"], None, None) if frame_size else None,
        ROI.convert(pairs["--roi"], None, None) if region else None,
        TILES.convert(pairs["--tiles"], None, None),
        int(pairs["--tile-overlap"]) if overlap is not None else None,
    )
    assert parsed == view


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--roi", "1,2,3"),
        ("--roi", "1,2,0,4"),
        ("--roi", "-1,2,3,4"),
        ("--tiles", "0x2"),
        ("--tiles", "65x2"),
        ("--tiles", "nativ"),
        ("--frame-size", "12x0"),
        ("--frame-size", "big"),
    ],
)
def test_an_invalid_option_is_a_usage_error(option: str, value: str) -> None:
    result = CliRunner().invoke(cli, ["train", "DATA", option, value])
    assert result.exit_code == 2
    assert repr(value) in result.output
