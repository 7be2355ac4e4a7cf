"""Verdicts of one source in time and place; the same for live and recorded frames, so that a recording replays to them."""

import math
from collections import Counter, deque
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.view import RegionFractions
from lrdan_edge.errors import DataError
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.rule import ELSEWHERE, Region, Rule
from lrdan_edge.runtime.verdict import Outcome, Verdict


class Window:
    """N of M: what a source's last frames say together.

    ``reject`` when at least N of the last M frames do, this one among them; before the Mth frame, of those there are. A fault
    never counts as good: ``good`` is said only where this frame is no fault, and the answer would be the same whatever the
    faulty frames had shown; else ``fault``.
    """

    def __init__(self, needed: int, length: int) -> None:
        """Reject when `needed` of the last `length` frames say so."""
        self._needed, self._length = needed, length
        self._outcomes: deque[Outcome] = deque()
        self._counts: Counter[Outcome] = Counter()

    def lose(self) -> None:
        """Frames were lost, nobody knows how many: as if as many as there is room for had been faults."""
        lost: list[Outcome] = ["fault"] * self._length
        self._outcomes, self._counts = deque(lost), Counter(lost)

    def add(self, outcome: Outcome) -> Outcome:
        """Take one frame's own outcome, and say what the window says."""
        self._outcomes.append(outcome)
        self._counts[outcome] += 1
        if len(self._outcomes) > self._length:
            self._counts[self._outcomes.popleft()] -= 1
        rejects, faults = self._counts["reject"], self._counts["fault"]
        if rejects >= self._needed:
            return "reject"
        return "fault" if outcome == "fault" or rejects + faults >= self._needed else "good"


class Surface:
    """Counts the heatmap's pixels above their limits, per region."""

    def __init__(
        self, rule: Rule, pixel_threshold: float, shape: tuple[int, int], shown: RegionFractions | None = None
    ) -> None:
        """Lay the regions over a heatmap.

        Args:
            rule: Minimum area and regions.
            pixel_threshold: The limit outside all regions.
            shape: (h, w) of the heatmap.
            shown: The part of the frame that the heatmap shows; None for all of it.

        Raises:
            DataError: A region is not in what the heatmap shows.
        """
        self._limits = np.full(shape, _as_float32(pixel_threshold))
        self._zones = np.zeros(shape, np.intp)
        self._names = (ELSEWHERE, *(region.name for region in rule.regions))
        for number, region in enumerate(rule.regions, start=1):
            rows, columns = _pixels(region, shape, shown)
            self._limits[rows, columns] = _as_float32(region.limit + (pixel_threshold if region.relative else 0.0))
            self._zones[rows, columns] = number
        self._least = max(1, rule.min_pixels, math.ceil(round(rule.min_share * shape[0] * shape[1], 6)))

    def exceeded(self, heatmap: npt.NDArray[np.float32]) -> tuple[int, tuple[str, ...]]:
        """How many pixels are above their limit, and where they are too many."""
        above = heatmap > self._limits
        counts = np.bincount(self._zones[above], minlength=len(self._names))
        return int(counts.sum()), tuple(
            name for name, count in zip(self._names, counts.tolist(), strict=True) if count >= self._least
        )


class Decider:
    """Applies a rule to one source's verdicts, in their order."""

    def __init__(self, window: Window, surface: Surface | None = None) -> None:
        """Decide by both; without a surface, frames are judged by their score."""
        self._window, self._surface = window, surface

    @classmethod
    def of(cls, inspector: Inspector, rule: Rule) -> "Decider":
        """A decider for one source that `inspector` judges.

        Raises:
            DataError: The bundle has no pixel threshold, or a region is not in what its heatmap shows.
        """
        surface = None
        if rule.needs_heatmap:
            limit = pixel_threshold(inspector) if rule.pixel_threshold is None else rule.pixel_threshold
            surface = Surface(rule, limit, inspector.backend.spec.heatmap_shape, inspector.judge.region)
        return cls(Window(*rule.reject_after), surface)

    def decide(self, verdict: Verdict, *, gap: bool = False) -> Verdict:
        """The verdict with `Verdict.outcome` by the rule, and what the frame alone says beside it.

        Args:
            verdict: What the frame alone says.
            gap: Whether there was no picture. A camera delivers one fault for all that it could not deliver, so nobody knows
                how many frames it stands for; a recording of it replays to the same.
        """
        if gap:
            self._window.lose()
        own, why = verdict.outcome, verdict.fault
        area: int | None = None
        exceeded: tuple[str, ...] = ()
        if self._surface is not None and own != "fault":
            if verdict.heatmap is None or not np.isfinite(verdict.heatmap).all():
                own, why = "fault", "there is no heatmap, or it is not finite: the backend's output cannot be trusted"
            else:
                area, exceeded = self._surface.exceeded(verdict.heatmap)
                own = "reject" if exceeded else "good"
        outcome = self._window.add(own)
        if outcome == "fault" and own != "fault":
            why = "too many of the last frames are faults: whether the part is good cannot be said"
        return replace(
            verdict,
            outcome=outcome,
            frame_outcome=own,
            area=area,
            exceeded=exceeded,
            fault=why if "fault" in (outcome, own) else None,
        )


def pixel_threshold(inspector: Inspector) -> float:
    """The heatmap's value above which a pixel is anomalous.

    Where the score is the heatmap's largest value, it is the score's threshold. Else calibration fitted it on the same good
    images: a good part has a pixel above it as rarely as the promised false-reject rate says.

    Raises:
        DataError: The bundle was calibrated before pixel thresholds were; or the user gave a threshold of the score, which says
            nothing of pixels.
    """
    if inspector.bundle.manifest.scoring.score_is_maximum:
        return inspector.judge.threshold
    if inspector.judge.threshold != inspector.judge.decision.threshold:
        raise DataError(
            "--threshold is one of the score, and areas and regions are judged pixel by pixel: give --pixel-threshold instead"
        )
    if inspector.judge.decision.pixel_threshold is None:
        raise DataError(
            f"{inspector.bundle.path} has no pixel threshold, which areas and regions need: run 'lrdan-edge calibrate "
            f"--decision-only --bundle {inspector.bundle.path}', or give --pixel-threshold"
        )
    return inspector.judge.decision.pixel_threshold


def _as_float32(limit: float) -> np.float32:
    """The largest float32 that is not above `limit`: a float32 exceeds both or neither."""
    nearest = np.float32(limit)
    return np.nextafter(nearest, np.float32(-np.inf)) if float(nearest) > limit else nearest


def _pixels(region: Region, shape: tuple[int, int], shown: RegionFractions | None) -> tuple[slice, slice]:
    """A region's rows and columns of the heatmap; a pixel belongs to it when its middle does, and it has one at least."""
    slices = []
    for side, axis in ((1, 0), (0, 1)):
        start, size = (0.0, 1.0) if shown is None else (shown[side], shown[side + 2])
        count = shape[axis]
        low = (region.place[side] - start) / size * count
        high = low + region.place[side + 2] / size * count
        if high <= 0 or low >= count:
            raise DataError(
                f"the region {region.name!r} lies outside what this bundle inspects of a frame (x,y,w,h "
                f"{','.join(f'{one:g}' for one in shown or (0, 0, 1, 1))}): move it, or leave it out"
            )
        first = min(max(0, math.ceil(low - 0.5 - 1e-9)), count - 1)
        slices.append(slice(first, max(first + 1, min(count, math.ceil(high - 0.5 - 1e-9)))))
    return slices[0], slices[1]
