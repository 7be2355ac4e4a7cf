"""Which images show the same thing again: the same part under other light, a frame saved twice.

An image is made small and locally normalised (minus its local mean, over its local deviation), so that exposure drops out. What
all images have in common is then taken away by whitening, so that parts which merely look alike do not count: what is left of an
image is what it has for itself. Two images are as similar as these remains correlate.

Among unrelated images, pairs get rarer and rarer as similarity grows. Copies break that rule: they gather at the upper end. So a
threshold is taken only where far more pairs lie above it than in the band just below, and none where similarity thins out evenly.
Copies of one thing are also all alike, where neighbours in a gradual change (stripes of any phase) are alike pair by pair only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.data.images import Frame

SIDE = 32  # pixels of the thumbnail
SIGMA = 3.0  # pixels of it: what local means
LEAST_DEVIATION = 2.0  # grey levels: fainter structure than this is noise
SHRINKAGE = 0.1  # of the typical variance, added before whitening: directions without variance are not blown up
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
BAND = 0.1  # of similarity, below a threshold; narrower near 1
EXCESS = 3.0  # how many times as many pairs must lie above a threshold as in the band below
COMPLETE = 0.5  # share of a group's pairs that must be near-copies themselves
FEW, CERTAIN = 20, 0.9  # among fewer images than this, what they have in common is unsure, and only this much is
_BLOCK = 1024

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NearCopies:
    """Pairs of near-copies.

    Attributes:
        threshold: Similarity above which two images count as near-copies, or None if none are.
        pairs: Their places, int64 [P, 2], first < second.
        similarity: Of each pair, float32 [P], at most 1.
    """

    threshold: float | None
    pairs: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]

    @classmethod
    def none(cls) -> "NearCopies":
        """No pairs."""
        return cls(None, np.empty((0, 2), np.int64), np.empty(0, np.float32))


def thumbnail(frame: Frame) -> Features:
    """One image's feature, float32 [SIDE * SIDE]: small, grey, locally normalised.

    Args:
        frame: uint8 [H, W] or [H, W, 3] (BGR).
    """
    grey = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    detail = np.asarray(small - cv2.GaussianBlur(small, (0, 0), SIGMA), np.float32)
    deviation = np.sqrt(cv2.GaussianBlur(np.square(detail), (0, 0), SIGMA))
    return np.asarray(detail / (deviation + LEAST_DEVIATION), np.float32).ravel()


def find_near_copies(found: Features) -> NearCopies:
    """Pairs of near-copies; memory beyond the features themselves is bounded.

    Args:
        found: What `thumbnail` gives, stacked, float32 [N, D].
    """
    own = whiten(found)
    for threshold, (above, below) in zip(THRESHOLDS, _tail(own), strict=True):
        if above <= EXCESS * below or (len(own) < FEW and threshold < CERTAIN):
            continue
        copies = _pairs_above(own, threshold)
        if above > 0 and _completeness(copies.pairs, len(own)) >= COMPLETE:
            return copies
    return NearCopies.none()


def _pairs_above(own: Features, threshold: float) -> NearCopies:
    pairs, similarity = [], []
    for start, block in _blocks(own):
        rows, columns = np.nonzero(block >= threshold)
        pairs.append(np.stack([rows + start, columns + start], 1))
        similarity.append(block[rows, columns])
    return NearCopies(threshold, np.concatenate(pairs), np.minimum(np.concatenate(similarity), 1.0))


def _completeness(pairs: npt.NDArray[np.int64], count: int) -> float:
    """Of all pairs within the groups that these pairs join, the share that are among them."""
    sizes = np.bincount(join(count, pairs)).astype(np.int64)
    return len(pairs) / max(1, int((sizes * (sizes - 1) // 2).sum()))


def similarities(found: Features) -> Iterator[tuple[int, Features]]:
    """Similarities of every pair once, block by block.

    Args:
        found: What `thumbnail` gives, stacked, float32 [N, D].

    Yields:
        A block's first place `start`, and similarities float32 [rows, N - start] of the places from there on with each other;
        -1 where a pair is another block's or none.
    """
    return _blocks(whiten(found))


def whiten(found: Features) -> Features:
    """What each image has for itself, of unit length (zero where it has nothing): float32 [N, min(N, D)].

    Args:
        found: float32 [N, D].
    """
    centred = found.astype(np.float32) - found.mean(0)
    few = len(found) < found.shape[1]  # their products among themselves are then the smaller matrix, of the same variances
    variance, axes = np.linalg.eigh((centred @ centred.T if few else centred.T @ centred) / max(1, len(found)))
    variance = np.maximum(variance, 0)
    typical = float(np.square(variance).sum() / max(float(variance.sum()), 1e-12))
    along = axes * np.sqrt(variance * len(found)) if few else centred @ axes
    own = along / np.sqrt(variance + SHRINKAGE * typical + 1e-9)
    length = np.linalg.norm(own, axis=1, keepdims=True)
    return np.asarray(own / np.maximum(length, 1e-6), np.float32)


def join(count: int, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Number `count` images by group, int64 [count]: images joined by pairs, directly or through others, share one.

    Args:
        count: How many images.
        pairs: int64 [P, 2].
    """
    parent = list(range(count))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for first, second in pairs.tolist():
        parent[max(root(first), root(second))] = min(root(first), root(second))
    return np.unique([root(place) for place in range(count)], return_inverse=True)[1].astype(np.int64)


def _blocks(own: Features) -> Iterator[tuple[int, Features]]:
    """Similarities of every pair once, block by block: the first place of the block, and the block; -1 where no pair is."""
    for start in range(0, len(own), _BLOCK):
        rows = own[start : start + _BLOCK]
        block = rows @ own[start:].T
        block[:, : len(rows)][np.tril_indices(len(rows))] = -1.0
        yield start, block


def _tail(own: Features) -> list[tuple[int, int]]:
    """For each of `THRESHOLDS`: pairs above it, and pairs in the band below."""
    counts = np.zeros((len(THRESHOLDS), 2), np.int64)
    for _, block in _blocks(own):
        high = block[block >= THRESHOLDS[0] - BAND]
        for place, threshold in enumerate(THRESHOLDS):
            above = int((high >= threshold).sum())
            counts[place] += (above, int((high >= threshold - min(BAND, 1 - threshold)).sum()) - above)
    return [(int(above), int(below)) for above, below in counts]
