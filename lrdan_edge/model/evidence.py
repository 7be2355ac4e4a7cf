"""Maps of evidence for a defect, beside the decoder's marks: how far an image's features are from what AE2 restores, and from good images.

Each map is in deviations of good images, so that maps can be added.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lrdan_edge.model.features import Enlargement, interpolation_matrix, neighbour_matrix
from lrdan_edge.model.padim import PositionGaussians
from lrdan_edge.model.patchcore import Memory, distances_of
from lrdan_edge.model.precision import Float32Module

ADDED_DEVIATION = 0.25
"""Added to the deviation of an error at each position, as a fraction of its deviation over all positions."""

ERROR_SIGMA = 4.0
"""Deviation in pixels of the Gaussian that smooths AE2's error, as in PaDiM and PatchCore."""

LEAST_SPREAD = 1e-3
"""The smallest deviation of largest distances, as a fraction of their mean (or of 1, if that is more), that distances are divided by."""


class ErrorMap(Float32Module):
    """AE2's error, in deviations of the good images' error at the same position, smoothed.

    Per stride there are two errors: the mean square of the difference, and one minus the cosine of the angle between the vectors. The
    map is the mean of all six.

    Attributes:
        mean_i: The good images' mean errors at the i-th stride, float32 [1, 2, h, w].
        inverse_i: One over their deviations, to which `ADDED_DEVIATION` is added, likewise.
    """

    def __init__(self, sides: Sequence[tuple[int, int]], size: tuple[int, int]) -> None:
        """Make the constants.

        Args:
            sides: (rows, columns) of the features at each stride.
            size: (rows, columns) of the map.
        """
        super().__init__()
        self.count = len(sides)
        for place, (rows, columns) in enumerate(sides):
            self.register_buffer(f"mean_{place}", torch.zeros(1, 2, rows, columns))
            self.register_buffer(f"inverse_{place}", torch.ones(1, 2, rows, columns))
            for name, before, after in (("rows", rows, size[0]), ("columns", columns, size[1])):
                matrix = _smoothing_interpolation(before, after)
                self.register_buffer(
                    f"{name}_{place}", (matrix if name == "rows" else matrix.T).contiguous()[None], persistent=False
                )

    def forward(self, features: Sequence[Tensor], restored: Sequence[Tensor]) -> Tensor:
        """Compute the map.

        Args:
            features: Standardised features, float [N, K, h, w] per stride.
            restored: AE2's output for them.

        Returns:
            float32 [N, H, W]; about 0 for good images.
        """
        found: Tensor | None = None
        for place, errors in enumerate(self.errors(features, restored)):
            deviations = (errors - self.get_buffer(f"mean_{place}")) * self.get_buffer(f"inverse_{place}")
            both = deviations.sum(1)
            enlarged = self.get_buffer(f"rows_{place}") @ both @ self.get_buffer(f"columns_{place}")
            found = enlarged if found is None else found + enlarged
        assert found is not None
        return found / (2 * self.count)

    @staticmethod
    def errors(features: Sequence[Tensor], restored: Sequence[Tensor]) -> list[Tensor]:
        """Both errors of each stride, float32 [N, 2, h, w]."""
        found = []
        for one, other in zip(features, restored, strict=True):
            f, r = one.float(), other.float()
            difference = f - r
            square = (difference * difference).mean(1, keepdim=True)
            norms = (f * f).sum(1, keepdim=True) * (r * r).sum(1, keepdim=True)
            cosine = (f * r).sum(1, keepdim=True) / (norms + 1e-6).sqrt()
            found.append(torch.cat([square, 1 - cosine], 1))
        return found

    @torch.no_grad()
    def fit(self, place: int, mean: Tensor, deviation: Tensor, overall: Tensor) -> None:
        """Set the constants of one stride.

        Args:
            place: The stride's place.
            mean: The good images' mean errors, float32 [1, 2, h, w].
            deviation: Their deviations at each position, the same shape.
            overall: Their deviations over all positions, float32 [1, 2, 1, 1].
        """
        self.get_buffer(f"mean_{place}").copy_(mean)
        self.get_buffer(f"inverse_{place}").copy_(1 / (deviation + ADDED_DEVIATION * overall).clamp_min(1e-6))


class ScaledDistances(Float32Module):
    """Distances on a grid, in deviations of the largest distances of good images that had no part in what distances are measured from.

    Attributes:
        offset: The mean of these largest distances, float32 [].
        inverse: One over their deviation, float32 [].
    """

    offset: Tensor
    inverse: Tensor

    def __init__(self, side: tuple[int, int], size: tuple[int, int]) -> None:
        """Make the constants.

        Args:
            side: The grid's (rows, columns).
            size: (rows, columns) of the map.
        """
        super().__init__()
        self.side = side
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("inverse", torch.ones(()))
        self.enlarge = Enlargement(side, size)

    def scaled(self, distances: Tensor) -> Tensor:
        """The map float32 [N, H, W] of distances float32 [N, P]."""
        enlarged: Tensor = self.enlarge((distances.reshape(-1, *self.side) - self.offset) * self.inverse)
        return enlarged

    @torch.no_grad()
    def fit_scale(self, largest: Tensor) -> None:
        """Set offset and inverse by the largest distances of good images, float32 [N]."""
        self.offset.copy_(largest.mean())
        self.inverse.copy_(1 / largest.std(unbiased=False).clamp_min(LEAST_SPREAD * largest.mean().clamp_min(1)))


class DistanceMap(ScaledDistances):
    """The Mahalanobis distance of AE2's difference at the coarsest stride from the good images' differences at the same position.

    Where the error's size says little, its direction may: PaDiM (arXiv 2011.08785) measures features in the same way.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, channels: int, side: tuple[int, int], size: tuple[int, int]) -> None:
        """Make the constants for features with `channels`; the others as in `ScaledDistances`."""
        super().__init__(side, size)
        self.gaussians = PositionGaussians(side[0] * side[1], channels, channels)
        self.register_buffer("rows", neighbour_matrix(side[0])[None, None], persistent=False)
        self.register_buffer("columns", neighbour_matrix(side[1]).T.contiguous()[None, None], persistent=False)

    def averaged(self, features: Tensor, restored: Tensor) -> Tensor:
        """The difference of features and AE2's output, averaged over neighbouring positions: float32 [N, K, h, w]."""
        return self.rows @ (features.float() - restored.float()) @ self.columns

    def forward(self, features: Tensor, restored: Tensor) -> Tensor:
        """Compute the map, float32 [N, H, W], of standardised features float [N, K, h, w] and AE2's output for them."""
        return self.scaled(self.gaussians(self.averaged(features, restored)))


class NearestMap(ScaledDistances):
    """The distance of the coarsest features from the nearest of a memory of good images' features, as in `lrdan_edge.model.patchcore`.

    It needs no position: it serves where parts lie in many ways or layouts are new.
    """

    def __init__(self, channels: int, side: tuple[int, int], size: tuple[int, int]) -> None:
        """Make a memory of one row of zeros, for features with `channels`; the others as in `ScaledDistances`."""
        super().__init__(side, size)
        self.memory = Memory(channels)

    def forward(self, cosines: Tensor) -> Tensor:
        """Compute the map, float32 [N, H, W], of the features' cosines with the memory, as `Memory.cosines` returns them."""
        return self.scaled(distances_of(cosines))


class KnownDefectMap(ScaledDistances):
    """How much more the coarsest features resemble those of known defects than those of good images.

    It is the cosine with the nearest of the defects' features, less that with the nearest good one.
    """

    def __init__(self, channels: int, side: tuple[int, int], size: tuple[int, int]) -> None:
        """Know no defect; the arguments are those of `NearestMap`."""
        super().__init__(side, size)
        self.memory = Memory(channels)
        self.memory.fill(self.memory.rows[:0])

    @property
    def empty(self) -> bool:
        """Whether no defect is known."""
        return len(self.memory.rows) == 0

    def excess(self, features: Tensor, good: Tensor) -> Tensor:
        """The differences of the cosines, float32 [N, P], of features float [N, K, h, w] whose cosines with good ones are `good`."""
        return self.memory.cosines(features) - good

    def forward(self, features: Tensor, good: Tensor) -> Tensor:
        """Compute the map, float32 [N, H, W]; the arguments are those of `excess`."""
        return self.scaled(self.excess(features, good))


def _smoothing_interpolation(before: int, after: int) -> Tensor:
    """The matrix that enlarges one side linearly and then smooths it, float32 [after, before]; edges are repeated."""
    enlarge = interpolation_matrix(before, after)
    places = torch.arange(after, dtype=torch.float32)
    radius = int(2.5 * ERROR_SIGMA)
    smoothed = torch.zeros(after, after)
    weights = torch.exp(-torch.arange(-radius, radius + 1).float().square() / (2 * ERROR_SIGMA**2))
    for offset, weight in zip(range(-radius, radius + 1), weights / weights.sum(), strict=True):
        sources = (places + offset).clamp(0, after - 1).long()
        smoothed[torch.arange(after), sources] += weight
    return smoothed @ enlarge
