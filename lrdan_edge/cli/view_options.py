"""The command line's options for what the networks see of a camera's frame."""

import re
from typing import Any

import click

from lrdan_edge.cli.options import option_group


class Size(click.ParamType):  # type: ignore[type-arg]  # generic in click's stubs alone
    """``128`` or ``96x128`` (height x width), in pixels."""

    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """The size as (height, width)."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", str(value))
        if not match or int(match[1]) == 0 or (match[2] and int(match[2]) == 0):
            self.fail(f"{value!r} is not a size: write 128, or 96x128 for height x width", param, ctx)
        return int(match[1]), int(match[2] or match[1])


class Roi(click.ParamType):  # type: ignore[type-arg]  # generic in click's stubs alone
    """``X,Y,W,H`` in a frame's pixels, as OpenCV writes a rectangle."""

    name = "X,Y,W,H"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int, int]:
        """The region as (left, top, width, height)."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,5}),(\d{1,5}),(\d{1,5}),(\d{1,5})", str(value))
        if not match or int(match[3]) == 0 or int(match[4]) == 0:
            self.fail(f"{value!r} is not a region: write X,Y,W,H in pixels of a frame, such as 100,40,640,480", param, ctx)
        return int(match[1]), int(match[2]), int(match[3]), int(match[4])


class Tiles(click.ParamType):  # type: ignore[type-arg]  # generic in click's stubs alone
    """``2x3`` (rows x columns), or ``native``."""

    name = "RxC|native"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int] | str:
        """The grid as (rows, columns), or ``native``."""
        if isinstance(value, tuple) or value == "native":
            return value  # type: ignore[no-any-return]
        match = re.fullmatch(r"(\d{1,2})x(\d{1,2})", str(value))
        if not match or not all(1 <= int(count) <= 64 for count in match.groups()):
            self.fail(f"{value!r} is not a grid of tiles: write 2x3 for rows x columns (up to 64x64), or native", param, ctx)
        return int(match[1]), int(match[2])


view_options = option_group(
    "view",
    click.option(
        "--frame-size", type=Size(), help="Size of the camera's frames; the graph resizes them. [default: the images' size]"
    ),
    click.option("--roi", "region", type=Roi(), help="Region of the frame to inspect, in its pixels. [default: all of it]"),
    click.option(
        "--tiles", type=Tiles(), help="Cut the region into overlapping tiles; native: tiles at the frame's own resolution."
    ),
    click.option(
        "--tile-overlap",
        "overlap",
        type=click.IntRange(min=0),
        metavar="PX",
        help="Pixels that neighbouring tiles share. [default: an eighth of a tile]",
    ),
)
"""The options of `lrdan_edge.train.view.View`; the command gets them as one dictionary, ``view``."""
