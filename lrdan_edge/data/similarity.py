"""Search for near-copies: the same part under different light, or a frame that was saved twice.

An image is reduced to a thumbnail and normalised locally (minus its local mean, over its local deviation) to remove exposure.
Whitening then removes the structure that all images share, so that different parts of one kind do not count as copies. The
similarity of two images is the correlation of their whitened features.

Among unrelated images, pairs become rarer with growing similarity. Copies are an exception: they gather at the upper end. So a
threshold is used only if far more pairs lie above it than in the band just below it. In addition, all copies of one part must be
similar to each other; in a gradual change (stripes of varying phase) only neighbours are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.data.images import Frame

SIDE = 32  # pixels of the thumbnail
SIGMA = 3.0  # thumbnail pixels: scale of the local normalisation
LEAST_DEVIATION = 2.0  # grey levels: fainter structure is noise
SHRINKAGE = 0.1  # fraction of the typical variance, added before whitening so that noise is not amplified
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
BAND = 0.1  # width in similarity of the band below a threshold; narrower near 1
EXCESS = 3.0  # smallest ratio of pairs above a threshold to pairs in the band below it
COMPLETE = 0.5  # fraction of a group's pairs that must be near-copies themselves
FEW, CERTAIN = 20, 0.9  # with fewer images than this, whitening is unreliable, and a threshold must be at least this
_BLOCK = 1024

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NearCopies:
    """Pairs of near-copies.

    Attributes:
        threshold: Similarity above which two images count as near-copies, or None if none are.
        pairs: Indices of the two images, int64 [P, 2], first < second.
        similarity: Similarity of each pair, float32 [P], at most 1.
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
    """Find pairs of near-copies in bounded memory.

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
    for start, block in blocks(own):
        rows, columns = np.nonzero(block >= threshold)
        pairs.append(np.stack([rows + start, columns + start], 1))
        similarity.append(block[rows, columns])
    return NearCopies(threshold, np.concatenate(pairs), np.minimum(np.concatenate(similarity), 1.0))


def _completeness(pairs: npt.NDArray[np.int64], count: int) -> float:
    """The fraction of all pairs within the joined groups that are in `pairs`."""
    sizes = np.bincount(join(count, pairs)).astype(np.int64)
    return len(pairs) / max(1, int((sizes * (sizes - 1) // 2).sum()))


def whiten(found: Features) -> Features:
    """Whitened features of unit length (zero for an image without structure of its own): float32 [N, min(N, D)].

    Args:
        found: float32 [N, D].
    """
    centred = found.astype(np.float32) - found.mean(0)
    few = len(found) < found.shape[1]  # then the Gram matrix is smaller than the covariance and has the same eigenvalues
    variance, axes = np.linalg.eigh((centred @ centred.T if few else centred.T @ centred) / max(1, len(found)))
    variance = np.maximum(variance, 0)
    typical = float(np.square(variance).sum() / max(float(variance.sum()), 1e-12))
    along = axes * np.sqrt(variance * len(found)) if few else centred @ axes
    own = along / np.sqrt(variance + SHRINKAGE * typical + 1e-9)
    length = np.linalg.norm(own, axis=1, keepdims=True)
    return np.asarray(own / np.maximum(length, 1e-6), np.float32)


def join(count: int, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The group number of each image, int64 [count]: images connected by pairs, directly or indirectly, share a group.

    Args:
        count: Number of images.
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


def blocks(own: Features) -> Iterator[tuple[int, Features]]:
    """Similarities of every pair once, block by block.

    Args:
        own: What `whiten` gives, float32 [N, K].

    Yields:
        The block's first index `start`, and the similarities float32 [rows, N - start] of its images to the images from `start`
        on; -1 for a pair of another block or of an image with itself.
    """
    for start in range(0, len(own), _BLOCK):
        rows = own[start : start + _BLOCK]
        block = rows @ own[start:].T
        block[:, : len(rows)][np.tril_indices(len(rows))] = -1.0
        yield start, block


def _tail(own: Features) -> list[tuple[int, int]]:
    """For each of `THRESHOLDS`: the numbers of pairs above it and in the band below it."""
    counts = np.zeros((len(THRESHOLDS), 2), np.int64)
    for _, block in blocks(own):
        high = block[block >= THRESHOLDS[0] - BAND]
        for place, threshold in enumerate(THRESHOLDS):
            above = int((high >= threshold).sum())
            counts[place] += (above, int((high >= threshold - min(BAND, 1 - threshold)).sum()) - above)
    return [(int(above), int(below)) for above, below in counts]
