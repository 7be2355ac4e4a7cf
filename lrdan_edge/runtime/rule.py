"""When a part is rejected, beyond one frame's score: how many frames, how much of the picture, and where."""

import math
import re
from dataclasses import dataclass

from lrdan_edge.bundle.view import RegionFractions
from lrdan_edge.errors import DataError

ELSEWHERE = "elsewhere"
"""What the part of the picture outside all regions is called."""

_REGION = re.compile(r"(?P<name>[^=:,]+)=(?P<place>[^:]+):(?P<threshold>threshold(?=[+-]))?(?P<limit>.+)")


@dataclass(frozen=True)
class Region:
    """A part of the frame with a limit of its own.

    Attributes:
        name: What to call it in verdicts.
        place: Left, top, width, height as shares of the frame, each in [0, 1].
        limit: The heatmap's value above which a pixel there counts; infinity leaves the region out.
        relative: Whether `limit` is what is added to the pixel threshold instead of a value of the heatmap.
    """

    name: str
    place: RegionFractions
    limit: float
    relative: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no region.

        Raises:
            DataError: No name, a place that is empty or leaves the frame, or a limit that is not a number.
        """
        left, top, width, height = self.place
        inside = all(math.isfinite(side) for side in self.place) and min(left, top) >= 0 and left + width <= 1 + 1e-9
        if not inside or top + height > 1 + 1e-9 or min(width, height) <= 0:
            shown = ",".join(f"{side:g}" for side in self.place)
            raise DataError(
                f"the region {self.name!r} at {shown} leaves the frame or is empty: give x,y,width,height as shares of the "
                "frame, such as 0.25,0.1,0.5,0.3"
            )
        if not self.name or self.name == ELSEWHERE:
            raise DataError(f"a region cannot be called {self.name!r}: choose another name")
        if math.isnan(self.limit):
            raise DataError(f"the region {self.name!r} has the limit {self.limit:g}: give a number")


@dataclass(frozen=True)
class Rule:
    """When a part is rejected.

    Without minimum area and regions, a frame is judged by its score. With them it is judged by its heatmap: it is rejected when,
    in a region or elsewhere, enough pixels are above the limit there.

    Attributes:
        reject_after: (N, M): reject when at least N of a source's last M frames say so, this one among them.
        min_pixels: So many of the heatmap's pixels must be above their limit; 0: no area is asked for, and where regions are,
            one pixel is enough.
        min_share: And at least this share of all its pixels, in [0, 1].
        regions: Parts of the frame with limits of their own; where they overlap, the last one counts.
        pixel_threshold: The limit everywhere else; None: the bundle's (see `lrdan_edge.runtime.decider.pixel_threshold`).
    """

    reject_after: tuple[int, int] = (1, 1)
    min_pixels: int = 0
    min_share: float = 0.0
    regions: tuple[Region, ...] = ()
    pixel_threshold: float | None = None

    def __post_init__(self) -> None:
        """Refuse what can never be met.

        Raises:
            DataError: N is not in 1 to M, the area is not in the picture, the pixel threshold is no number, or two regions share a
                name.
        """
        needed, window = self.reject_after
        if not 1 <= needed <= window:
            raise DataError(f"{needed} of {window} frames can never say so: give N/M with 1 <= N <= M, such as 2/3")
        if self.min_pixels < 0 or not 0 <= self.min_share <= 1:
            raise DataError(
                f"an area of {self.min_pixels} pixels and {self.min_share:%} is none: give pixels, or a share up to 100%"
            )
        if self.pixel_threshold is not None and math.isnan(self.pixel_threshold):
            raise DataError("a pixel threshold of nan decides nothing: give a number")
        names = [region.name for region in self.regions]
        if len(set(names)) < len(names):
            raise DataError(f"two regions have the same name ({', '.join(names)}): name them apart")

    @property
    def needs_heatmap(self) -> bool:
        """Whether frames are judged by their heatmap."""
        return self.min_pixels > 0 or self.min_share > 0 or bool(self.regions) or self.pixel_threshold is not None


def parse_region(text: str) -> Region:
    """``NAME=x,y,w,h:LIMIT`` in shares of the frame.

    LIMIT is a value of the heatmap, ``threshold+1.5`` or ``threshold-1.5`` (so much above or below the pixel threshold), or
    ``inf``.

    Raises:
        DataError: It is not written so, or is no region.
    """
    match = _REGION.fullmatch(text)
    try:
        if match is None:
            raise ValueError(text)
        left, top, width, height = (float(side) for side in match["place"].split(","))
        relative = match["threshold"] is not None
        limit = float(match["limit"])
    except ValueError as error:
        raise DataError(
            f"{text!r} is no region: write NAME=x,y,w,h:LIMIT, in shares of the frame, such as "
            "label=0.1,0.1,0.3,0.2:threshold+1.5"
        ) from error
    return Region(match["name"].strip(), (left, top, width, height), limit, relative)


def parse_reject_after(text: str) -> tuple[int, int]:
    """``N/M``.

    Raises:
        DataError: It is not written so.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise DataError(f"{text!r} is not N/M: write 2/3 to reject when 2 of the last 3 frames say so")
    return int(match[1]), int(match[2])


def parse_min_area(text: str) -> tuple[int, float]:
    """``40`` pixels of the heatmap, or ``0.5%`` of it, as (pixels, share).

    Raises:
        DataError: It is not written so.
    """
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d*)?|\.\d+)%", text)
    if match is None or (match[1] and int(match[1]) < 1) or (match[2] and float(match[2]) > 100):
        raise DataError(f"{text!r} is no area: write 40 for pixels of the heatmap, or 0.5% for a share of it")
    return (int(match[1]), 0.0) if match[1] else (1, float(match[2]) / 100)
