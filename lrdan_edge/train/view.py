"""What of a camera's frame the networks are to see, as the user asks for it, and the geometry that follows."""

from collections.abc import Iterable
from dataclasses import dataclass

from lrdan_edge.bundle.view import Geometry, Region, tile_starts, tiles_needed
from lrdan_edge.errors import DataError

NATIVE_TILE = 256  # pixels of a tile that is cut at the frame's own resolution, if the user names no other size
OVERLAP_DIVISOR = 8  # neighbours have an eighth of a tile in common, if the user names no overlap


@dataclass(frozen=True)
class View:
    """What the networks see; by default all of an image, scaled to their size before it enters the graph.

    Attributes:
        frame_size: (rows, columns) of the frames that enter the deploy graph, or None for the images' own.
        region: The part of a frame that is inspected (left, top, width, height in its pixels), or None for all of it.
        tiles: (rows, columns) of the grid of tiles that the region is scaled to and cut into; ``native`` cuts as many as cover
            it at the frame's own resolution; None: the networks see the region as one image.
        overlap: Pixels, of the networks' images, that neighbouring tiles have in common at least; None for an eighth of a tile.
    """

    frame_size: tuple[int, int] | None = None
    region: Region | None = None
    tiles: tuple[int, int] | str | None = None
    overlap: int | None = None

    def __post_init__(self) -> None:
        if self.overlap is not None and self.tiles is None:
            raise DataError(f"a tile overlap of {self.overlap} pixels needs tiles", "give {tiles} too, RxC or native")
        if isinstance(self.tiles, str) and self.tiles != "native":
            raise DataError(f"tiles are {self.tiles!r}", "give rows and columns, such as 2x3, or native")

    @property
    def is_default(self) -> bool:
        """Whether nothing was asked for."""
        return self == View()

    def options(self) -> dict[str, object]:
        """The options of the command ``train`` that ask for it, as `Command` takes them."""
        return {
            "frame_size": self.frame_size and "{}x{}".format(*self.frame_size),
            "roi": self.region and ",".join(map(str, self.region)),
            "tiles": self.tiles if self.tiles is None or isinstance(self.tiles, str) else "{}x{}".format(*self.tiles),
            "tile_overlap": self.overlap,
        }

    def region_size(self, frame: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of what one image of the networks shows, in pixels of a frame of (rows, columns) `frame`."""
        rows, columns = (self.region[3], self.region[2]) if self.region else frame
        if self.tiles is None or isinstance(self.tiles, str):
            return rows, columns
        return max(1, rows // self.tiles[0]), max(1, columns // self.tiles[1])

    def image_size(self, frame: tuple[int, int]) -> tuple[int, int] | None:
        """The networks' (height, width) where tiles have the frame's own resolution; None otherwise."""
        if self.tiles != "native":
            return None
        rows, columns = self.region_size(frame)
        return min(NATIVE_TILE, rows // 4 * 4), min(NATIVE_TILE, columns // 4 * 4)

    def geometry(self, frame: tuple[int, int], image: tuple[int, int]) -> Geometry | None:
        """The geometry that this view has.

        Args:
            frame: (rows, columns) of the frames.
            image: (height, width) of the networks' images.

        Returns:
            None by default.

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
                    "give {tile_overlap} from 0 to {largest}",
                    largest=side // 2,
                )
        if self.tiles is None:
            canvas, tiles = image, (1, 1)
        elif isinstance(self.tiles, str):
            # A side that one tile covers but for a few pixels is scaled to it.
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
            raise DataError(str(error), "give another {roi}, {tiles} or {image_size}") from error


def _pair(values: Iterable[int]) -> tuple[int, int]:
    first, second = values
    return first, second
