"""Options for the part of a camera's frame that the networks see, and its scale."""

import re

import click

from lrdan_edge.cli.options import Parsed, option_group


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if not match or int(match[1]) == 0 or (match[2] and int(match[2]) == 0):
        raise ValueError(f"{text!r} is not a size: write 128, or 96x128 for height x width")
    return int(match[1]), int(match[2] or match[1])


def _roi(text: str) -> tuple[int, ...]:
    match = re.fullmatch(r"(\d{1,5}),(\d{1,5}),(\d{1,5}),(\d{1,5})", text)
    if not match or int(match[3]) == 0 or int(match[4]) == 0:
        raise ValueError(f"{text!r} is not a region: write X,Y,W,H in pixels of a frame, such as 100,40,640,480")
    return tuple(map(int, match.groups()))


def _tiles(text: str) -> tuple[int, int] | str:
    if text == "native":
        return text
    match = re.fullmatch(r"(\d{1,2})x(\d{1,2})", text)
    if not match or not all(1 <= int(count) <= 64 for count in match.groups()):
        raise ValueError(f"{text!r} is not a grid of tiles: write 2x3 for rows x columns (up to 64x64), or native")
    return int(match[1]), int(match[2])


SIZE = Parsed("N|HxW", _size)
"""``128`` or ``96x128`` in pixels, as (height, width)."""

ROI = Parsed("X,Y,W,H", _roi)
"""A rectangle in the pixels of a frame, as OpenCV writes it."""

TILES = Parsed("RxC|native", _tiles)
"""``2x3`` as (rows, columns), or ``native``."""

view_options = option_group(
    "view",
    click.option(
        "--frame-size", type=SIZE, help="Size of the camera's frames; the graph resizes them. [default: the images' size]"
    ),
    click.option("--roi", "region", type=ROI, help="Region of the frame to inspect, in its pixels. [default: all of it]"),
    click.option("--tiles", type=TILES, help="Cut the region into overlapping tiles; native: tiles at the frame's resolution."),
    click.option(
        "--tile-overlap",
        "overlap",
        type=click.IntRange(min=0),
        metavar="PX",
        help="Overlap of neighbouring tiles, in pixels. [default: an eighth of a tile]",
    ),
)
"""The options of `lrdan_edge.train.view.View`; the command gets them as one dictionary, ``view``."""
