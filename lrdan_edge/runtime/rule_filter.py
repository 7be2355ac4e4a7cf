"""Applies a rule to the verdicts of one source, over time and by region. A recording gives the same verdicts as the live run."""

import math
from collections import Counter, deque
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.view import RegionFractions
from lrdan_edge.errors import DataError
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.rule import ELSEWHERE, Region, Rule
from lrdan_edge.runtime.verdict import Outcome, Verdict


class TemporalFilter:
    """N of M: the outcome of a source's last frames together.

    It is ``reject`` if at least N of the last M frames (of all frames, if fewer than M have come) are rejects, including this one.
    It is ``good`` only if this frame is not a fault, and there would be fewer than N rejects even if all faults were rejects.
    Otherwise it is ``fault``.
    """

    def __init__(self, needed: int, length: int) -> None:
        """Reject if `needed` of the last `length` frames are rejects."""
        self._needed, self._length = needed, length
        self._outcomes: deque[Outcome] = deque()
        self._counts: Counter[Outcome] = Counter()

    def fill_with_faults(self) -> None:
        """Count an unknown number of lost frames: from now on, all of the last M frames are faults."""
        lost: list[Outcome] = ["fault"] * self._length
        self._outcomes, self._counts = deque(lost), Counter(lost)

    def add(self, outcome: Outcome) -> Outcome:
        """Add one frame's own outcome; returns the outcome of the last M frames."""
        self._outcomes.append(outcome)
        self._counts[outcome] += 1
        if len(self._outcomes) > self._length:
            self._counts[self._outcomes.popleft()] -= 1
        rejects, faults = self._counts["reject"], self._counts["fault"]
        if rejects >= self._needed:
            return "reject"
        return "fault" if outcome == "fault" or rejects + faults >= self._needed else "good"


class RegionThresholds:
    """Counts the pixels of a heatmap above their limits, per region."""

    def __init__(
        self, rule: Rule, pixel_threshold: float, shape: tuple[int, int], shown: RegionFractions | None = None
    ) -> None:
        """Find the pixels of each region.

        Args:
            rule: Minimum area and regions.
            pixel_threshold: The limit outside all regions.
            shape: (h, w) of the heatmap.
            shown: The part of the frame that the heatmap shows; None: the whole frame.

        Raises:
            DataError: A region lies outside the part that the heatmap shows.
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
        """The number of pixels above their limit, and the names of the regions with too many of them."""
        above = heatmap > self._limits
        counts = np.bincount(self._zones[above], minlength=len(self._names))
        return int(counts.sum()), tuple(
            name for name, count in zip(self._names, counts.tolist(), strict=True) if count >= self._least
        )


class RuleFilter:
    """Applies a rule to the verdicts of one source, in their order."""

    def __init__(self, temporal_filter: TemporalFilter, thresholds: RegionThresholds | None = None) -> None:
        """Combine both filters; without region thresholds, the score decides about each frame."""
        self._temporal_filter, self._thresholds = temporal_filter, thresholds

    @classmethod
    def of(cls, inspector: Inspector, rule: Rule) -> "RuleFilter":
        """The filter for one source that `inspector` inspects.

        Raises:
            DataError: The bundle has no pixel threshold, or a region lies outside the part that its heatmap shows.
        """
        thresholds = None
        if rule.needs_heatmap:
            limit = pixel_threshold(inspector) if rule.pixel_threshold is None else rule.pixel_threshold
            thresholds = RegionThresholds(rule, limit, inspector.backend.spec.heatmap_shape, inspector.thresholder.region)
        return cls(TemporalFilter(*rule.reject_after), thresholds)

    def apply(self, verdict: Verdict, *, gap: bool = False) -> Verdict:
        """The verdict with the rule's outcome in `Verdict.outcome`, and the frame's own outcome in `Verdict.frame_outcome`.

        Args:
            verdict: The verdict on only this frame.
            gap: Whether there was no image. A camera, or a recording of it, delivers one fault for an unknown number of lost
                frames.
        """
        if gap:
            self._temporal_filter.fill_with_faults()
        own, fault = verdict.outcome, verdict.fault
        area: int | None = None
        exceeded: tuple[str, ...] = ()
        if self._thresholds is not None and own != "fault":
            if verdict.heatmap is None or not np.isfinite(verdict.heatmap).all():
                own, fault = "fault", "there is no heatmap, or it is not finite: the backend's output cannot be trusted"
            else:
                area, exceeded = self._thresholds.exceeded(verdict.heatmap)
                own = "reject" if exceeded else "good"
        outcome = self._temporal_filter.add(own)
        if outcome == "fault" and own != "fault":
            fault = "too many of the last frames are faults: the part may be good or not"
        return replace(
            verdict,
            outcome=outcome,
            frame_outcome=own,
            area=area,
            exceeded=exceeded,
            fault=fault if "fault" in (outcome, own) else None,
        )


def pixel_threshold(inspector: Inspector) -> float:
    """The heatmap value above which a pixel is anomalous.

    If the score is the heatmap's largest value, it is the score's threshold. Otherwise calibration fitted it on the good images:
    the fraction of good parts with any pixel above it is at most the promised false-reject rate.

    Raises:
        DataError: The bundle was calibrated by a version without pixel thresholds, or the user gave a threshold for the score,
            which determines no pixel threshold.
    """
    if inspector.bundle.manifest.scoring.score_is_maximum:
        return inspector.thresholder.threshold
    if inspector.thresholder.threshold != inspector.thresholder.decision.threshold:
        raise DataError(
            "the given threshold applies to the score, but areas and regions need one for pixels",
            "give {pixel_threshold} instead of {threshold}",
        )
    if inspector.thresholder.decision.pixel_threshold is None:
        raise DataError(
            f"{inspector.bundle.path} has no pixel threshold, which areas and regions need",
            "run '{command}', or give {pixel_threshold}",
            command=Command("calibrate", decision_only=True, bundle=inspector.bundle.path),
        )
    return inspector.thresholder.decision.pixel_threshold


def _as_float32(limit: float) -> np.float32:
    """The largest float32 that is not above `limit`. A float32 value exceeds it if and only if it exceeds `limit`."""
    nearest = np.float32(limit)
    return np.nextafter(nearest, np.float32(-np.inf)) if float(nearest) > limit else nearest


def _pixels(region: Region, shape: tuple[int, int], shown: RegionFractions | None) -> tuple[slice, slice]:
    """A region's rows and columns in the heatmap: the pixels whose centre lies in the region, and at least one pixel."""
    slices = []
    for side, axis in ((1, 0), (0, 1)):
        start, size = (0.0, 1.0) if shown is None else (shown[side], shown[side + 2])
        count = shape[axis]
        low = (region.place[side] - start) / size * count
        high = low + region.place[side + 2] / size * count
        if high <= 0 or low >= count:
            inspected = ",".join(f"{side:g}" for side in shown or (0, 0, 1, 1))
            problem = f"the region {region.name!r} lies outside the inspected part of the frame (x,y,w,h {inspected})"
            raise DataError(problem, "move it, or leave it out")
        first = min(max(0, math.ceil(low - 0.5 - 1e-9)), count - 1)
        slices.append(slice(first, max(first + 1, min(count, math.ceil(high - 0.5 - 1e-9)))))
    return slices[0], slices[1]
