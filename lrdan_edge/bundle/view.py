"""The geometry from a camera's frame to the networks' images. It is stored in the manifest and computed in the deploy graph.

A frame [H, W] is cropped to its region, the region is resized to a canvas, and the canvas is cut into a grid of overlapping tiles
of the networks' size. The heatmap is blended from the tiles' maps and has the canvas's size.
"""

from itertools import pairwise
from typing import Annotated

import msgspec

LARGEST = 16384
"""Largest side of a frame or canvas, in pixels."""

Size = Annotated[int, msgspec.Meta(ge=1, le=65536)]
Place = Annotated[int, msgspec.Meta(ge=0, le=65536)]
Count = Annotated[int, msgspec.Meta(ge=1, le=64)]

Region = tuple[Place, Place, Size, Size]
"""Left, top, width, height in a frame's pixels."""

RegionFractions = tuple[float, float, float, float]
"""Left, top, width, height as fractions of the frame's width and height, each in [0, 1]."""


class Geometry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From a camera's frame to the networks' images.

    Attributes:
        frame: Rows and columns of the frame that enters the deploy graph.
        region: The region of interest of the frame.
        canvas: Rows and columns that the region is resized to, by averaging areas.
        tiles: Rows and columns of the grid of tiles, spread evenly over the canvas.
    """

    frame: tuple[Size, Size]
    region: Region
    canvas: tuple[Size, Size]
    tiles: tuple[Count, Count] = (1, 1)

    def __post_init__(self) -> None:
        """Refuse sizes above `LARGEST`, and a region that leaves its frame."""
        for name, size in (("frame", self.frame), ("canvas", self.canvas)):
            if not all(1 <= side <= LARGEST for side in size):
                raise ValueError(f"the {name} {size[0]}x{size[1]} has a side outside 1 to {LARGEST} pixels")
        left, top, width, height = self.region
        if top + height > self.frame[0] or left + width > self.frame[1]:
            raise ValueError(
                f"the region {left},{top},{width},{height} (x, y, width, height) extends beyond the frame {self.size_text}"
            )

    @property
    def size_text(self) -> str:
        """The frame's size in text: rows x columns."""
        return f"{self.frame[0]}x{self.frame[1]}"

    @property
    def region_fractions(self) -> RegionFractions:
        """The region as fractions of the frame; it applies to an image of the frame at any size."""
        (left, top, width, height), (rows, columns) = self.region, self.frame
        return left / columns, top / rows, width / columns, height / rows

    def describe(self, height: int, width: int) -> str:
        """Describe the geometry, with sizes as rows x columns, for networks whose images are `height` x `width`."""
        left, top, columns, rows = self.region
        words = [f"frames of {self.size_text}"]
        if (rows, columns) != self.frame:
            words.append(f"of them the region {rows}x{columns} at x {left}, y {top}")
        if self.canvas != (rows, columns):
            words.append(f"scaled to {self.canvas[0]}x{self.canvas[1]}")
        if self.tiles != (1, 1):
            words.append(f"in {self.tiles[0]}x{self.tiles[1]} tiles of {height}x{width}")
        return ", ".join(words)

    def of_frame(self, rows: int, columns: int) -> "Geometry":
        """The same geometry for a camera of another resolution: the region is scaled, canvas and tiles stay."""
        left, top, width, height = fractions_to_pixels(self.region_fractions, rows, columns)
        return msgspec.structs.replace(self, frame=(rows, columns), region=(left, top, width, height))


def fractions_to_pixels(fractions: RegionFractions, rows: int, columns: int) -> tuple[int, int, int, int]:
    """A region as left, top, width, height in pixels of an image of `rows` x `columns`; never empty."""
    left, top = min(round(fractions[0] * columns), columns - 1), min(round(fractions[1] * rows), rows - 1)
    right, bottom = round((fractions[0] + fractions[2]) * columns), round((fractions[1] + fractions[3]) * rows)
    return left, top, max(1, min(right, columns) - left), max(1, min(bottom, rows) - top)


def tile_starts(canvas: int, tile: int, count: int) -> list[int]:
    """First pixel of each tile along one side, spaced evenly from one end of the canvas to the other.

    Args:
        canvas: Pixels of the canvas along this side.
        tile: Pixels of a tile.
        count: How many tiles.

    Raises:
        ValueError: The tiles do not cover the canvas, or leave it.
    """
    starts = [round(index * (canvas - tile) / (count - 1)) for index in range(count)] if count > 1 else [0]
    if starts[-1] + tile != canvas or not all(before < after <= before + tile for before, after in pairwise(starts)):
        raise ValueError(f"{count} tiles of {tile} pixels leave gaps in {canvas} pixels, or extend beyond them")
    return starts


def blend_zones(starts: list[int], tile: int) -> list[tuple[int, int]]:
    """Where neighbouring tiles are blended: (start, end) in canvas pixels, end exclusive, one zone for each pair.

    A zone is the middle half of the overlap, since a tile lacks context at its edges. Zones never overlap.
    """
    zones = []
    least = min((after - before for before, after in pairwise(starts)), default=tile)
    for before, after in pairwise(starts):
        shared = before + tile - after
        width = min((shared + 1) // 2, least)
        begin = after + (shared - width) // 2
        zones.append((begin, begin + width))
    return zones


def tiles_needed(canvas: int, tile: int, overlap: int) -> int:
    """The smallest number of tiles of `tile` pixels that cover `canvas` pixels and overlap by at least `overlap` pixels."""
    return 1 if canvas <= tile else 1 - (tile - canvas) // (tile - overlap)
