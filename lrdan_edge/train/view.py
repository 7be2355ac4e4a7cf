"""The view: the user's choice of region and tiles in a camera's frame, and the geometry that follows from it."""

from collections.abc import Iterable
from dataclasses import dataclass

from lrdan_edge.bundle.view import Geometry, Region, tile_starts, tiles_needed
from lrdan_edge.errors import DataError

NATIVE_TILE = 256  # default side in pixels of a tile at the frame's own resolution
OVERLAP_DIVISOR = 8  # by default, neighbouring tiles overlap by an eighth of a tile


@dataclass(frozen=True)
class View:
    """The part of a frame that the networks see; by default the whole image, resized before it enters the graph.

    Attributes:
        frame_size: (rows, columns) of the frames that enter the deploy graph, or None for the images' size.
        region: The region of interest (left, top, width, height in pixels of the frame), or None for the whole frame.
        tiles: (rows, columns) of the grid of tiles; the region is resized for it. ``native``: as many tiles as cover the region at
            the frame's own resolution. None: the region is one image.
        overlap: Smallest overlap of neighbouring tiles in pixels of the networks' images; None for an eighth of a tile.
    """

    frame_size: tuple[int, int] | None = None
    region: Region | None = None
    tiles: tuple[int, int] | str | None = None
    overlap: int | None = None

    def __post_init__(self) -> None:
        if self.overlap is not None and self.tiles is None:
            raise DataError(f"a tile overlap of {self.overlap} pixels needs tiles", "give {tiles} too, as RxC or native")
        if isinstance(self.tiles, str) and self.tiles != "native":
            raise DataError(f"tiles must be rows and columns or native, got {self.tiles!r}", "give {tiles:2x3}, for example")

    @property
    def is_default(self) -> bool:
        """Whether all attributes have their defaults."""
        return self == View()

    def options(self) -> dict[str, object]:
        """The options of the command ``train`` for this view, as keywords of `Command`."""
        return {
            "frame_size": self.frame_size and "{}x{}".format(*self.frame_size),
            "roi": self.region and ",".join(map(str, self.region)),
            "tiles": self.tiles if self.tiles is None or isinstance(self.tiles, str) else "{}x{}".format(*self.tiles),
            "tile_overlap": self.overlap,
        }

    def region_size(self, frame: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) that one image of the networks covers, in pixels of a frame of size `frame` (rows, columns)."""
        rows, columns = (self.region[3], self.region[2]) if self.region else frame
        if self.tiles is None or isinstance(self.tiles, str):
            return rows, columns
        return max(1, rows // self.tiles[0]), max(1, columns // self.tiles[1])

    def image_size(self, frame: tuple[int, int]) -> tuple[int, int] | None:
        """The networks' (height, width) for ``native`` tiles; None otherwise."""
        if self.tiles != "native":
            return None
        rows, columns = self.region_size(frame)
        return min(NATIVE_TILE, rows // 4 * 4), min(NATIVE_TILE, columns // 4 * 4)

    def geometry(self, frame: tuple[int, int], image: tuple[int, int]) -> Geometry | None:
        """The geometry of this view.

        Args:
            frame: (rows, columns) of the frames.
            image: (height, width) of the networks' images.

        Returns:
            The geometry, or None for the default view.

        Raises:
            DataError: The region leaves the frame, or tiles do not cover it.
        """
        if self.is_default:
            return None
        region = self.region or (0, 0, frame[1], frame[0])
        size = (region[3], region[2])
        overlaps = [side // OVERLAP_DIVISOR if self.overlap is None else self.overlap for side in image]
        for overlap, side in zip(overlaps, image, strict=True):
            if self.tiles and not 0 <= overlap <= side // 2:
                raise DataError(
                    f"tiles of {side} pixels cannot overlap by {overlap}",
                    "give {overlap} from 0 to {largest}",
                    largest=side // 2,
                )
        if self.tiles is None:
            canvas, tiles = image, (1, 1)
        elif isinstance(self.tiles, str):
            # A side that is only a few pixels longer than one tile is resized to one tile.
            canvas = _pair(tile if side // 4 * 4 == tile else side for side, tile in zip(size, image, strict=True))
            tiles = _pair(tiles_needed(*sides) for sides in zip(canvas, image, overlaps, strict=True))
        else:
            tiles = self.tiles
            canvas = _pair(n * side - (n - 1) * lap for n, side, lap in zip(tiles, image, overlaps, strict=True))
        try:
            for sides in zip(canvas, image, tiles, strict=True):
                tile_starts(*sides)
            return Geometry(frame=frame, region=region, canvas=canvas, tiles=tiles)
        except ValueError as error:
            raise DataError(str(error), "give another {region}, {tiles} or {image_size}") from error


def _pair(values: Iterable[int]) -> tuple[int, int]:
    first, second = values
    return first, second
