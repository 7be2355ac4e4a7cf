"""Rules for rejecting a part: how many frames, how large an area, and where in the image."""

import math
import re
from dataclasses import dataclass

from lrdan_edge.bundle.view import RegionFractions
from lrdan_edge.errors import DataError

ELSEWHERE = "elsewhere"
"""The name for the part of the image outside all regions."""

_REGION = re.compile(r"(?P<name>[^=:,]+)=(?P<place>[^:]+):(?P<threshold>threshold(?=[+-]))?(?P<limit>.+)")


@dataclass(frozen=True)
class Region:
    """A part of the frame with its own limit.

    Attributes:
        name: Its name in verdicts.
        place: Left, top, width and height as fractions of the frame, each in [0, 1].
        limit: A pixel counts if its heatmap value is above this; infinity excludes the region.
        relative: Whether `limit` is an offset from the pixel threshold instead of a heatmap value.
    """

    name: str
    place: RegionFractions
    limit: float
    relative: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            DataError: The name is empty, the place has no area or leaves the frame, or the limit is NaN.
        """
        left, top, width, height = self.place
        inside = all(math.isfinite(side) for side in self.place) and min(left, top) >= 0 and left + width <= 1 + 1e-9
        if not inside or top + height > 1 + 1e-9 or min(width, height) <= 0:
            shown = ",".join(f"{side:g}" for side in self.place)
            fix = "give x,y,width,height as fractions of the frame, such as 0.25,0.1,0.5,0.3"
            raise DataError(f"the region {self.name!r} at {shown} extends beyond the frame or is empty", fix)
        if not self.name or self.name == ELSEWHERE:
            raise DataError(f"a region cannot be called {self.name!r}", "choose another name")
        if math.isnan(self.limit):
            raise DataError(f"the limit of the region {self.name!r} must be a number, got nan", "give a number, or inf")


@dataclass(frozen=True)
class Rule:
    """When a part is rejected.

    Without minimum area, regions and pixel threshold, the score decides about a frame. With any of them, the heatmap decides: the
    frame is rejected if enough pixels of a region, or of the rest of the frame, are above the limit there.

    Attributes:
        reject_after: (N, M): reject if at least N of a source's last M frames are rejects, including this one.
        min_pixels: Least number of heatmap pixels above their limit; 0: no minimum, one pixel is enough.
        min_share: Least fraction of all heatmap pixels above their limit, in [0, 1]. The larger of both minimums applies.
        regions: Parts of the frame with their own limits; where they overlap, the last one applies.
        pixel_threshold: The limit everywhere else; None: the bundle's (see `lrdan_edge.runtime.rule_filter.pixel_threshold`).
    """

    reject_after: tuple[int, int] = (1, 1)
    min_pixels: int = 0
    min_share: float = 0.0
    regions: tuple[Region, ...] = ()
    pixel_threshold: float | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            DataError: N is not from 1 to M, the minimum area is not valid, the pixel threshold is NaN, or two regions have the same
                name.
        """
        needed, window = self.reject_after
        if not 1 <= needed <= window:
            raise DataError(f"{needed} of {window} frames is not a valid rule", "give N/M with 1 <= N <= M, such as 2/3")
        if self.min_pixels < 0 or not 0 <= self.min_share <= 1:
            problem = f"a minimum area of {self.min_pixels} pixels and {self.min_share:%} is not valid"
            raise DataError(problem, "give pixels, or a fraction up to 100%")
        if self.pixel_threshold is not None and math.isnan(self.pixel_threshold):
            raise DataError("the pixel threshold must be a number, got nan", "give another {pixel_threshold}")
        names = [region.name for region in self.regions]
        if len(set(names)) < len(names):
            raise DataError(f"two regions have the same name ({', '.join(names)})", "give each its own name")

    @property
    def needs_heatmap(self) -> bool:
        """Whether the heatmap decides about a frame."""
        return self.min_pixels > 0 or self.min_share > 0 or bool(self.regions) or self.pixel_threshold is not None


def parse_region(text: str) -> Region:
    """Read a region written as ``NAME=x,y,w,h:LIMIT``, in fractions of the frame.

    LIMIT is a heatmap value, an offset from the pixel threshold (``threshold+1.5``, ``threshold-1.5``), or ``inf``.

    Raises:
        DataError: The text has another form, or its values are not valid.
    """
    match = _REGION.fullmatch(text)
    try:
        if match is None:
            raise ValueError(text)
        left, top, width, height = (float(side) for side in match["place"].split(","))
        relative = match["threshold"] is not None
        limit = float(match["limit"])
    except ValueError as error:
        fix = "write NAME=x,y,w,h:LIMIT, in fractions of the frame, such as label=0.1,0.1,0.3,0.2:threshold+1.5"
        raise DataError(f"{text!r} is not a region", fix) from error
    return Region(match["name"].strip(), (left, top, width, height), limit, relative)


def parse_reject_after(text: str) -> tuple[int, int]:
    """Read N and M, written as ``N/M``.

    Raises:
        DataError: The text has another form.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise DataError(f"{text!r} is not N/M", "write 2/3 to reject a part when 2 of the last 3 frames are rejects")
    return int(match[1]), int(match[2])


def parse_min_area(text: str) -> tuple[int, float]:
    """Read a minimum area, ``40`` pixels of the heatmap or ``0.5%`` of it, as (pixels, fraction).

    Raises:
        DataError: The text has another form.
    """
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d*)?|\.\d+)%", text)
    if match is None or (match[1] and int(match[1]) < 1) or (match[2] and float(match[2]) > 100):
        raise DataError(f"{text!r} is not an area", "write 40 for pixels of the heatmap, or 0.5% for a fraction of it")
    return (int(match[1]), 0.0) if match[1] else (1, float(match[2]) / 100)
