"""Statistics of good images: the features' mean and deviation before training, the maps' constants and memories after it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lrdan_edge.model.evidence import DistanceMap, NearestMap
from lrdan_edge.model.feature_restorer import FeatureRestorer
from lrdan_edge.model.padim import PositionGaussians
from lrdan_edge.model.patchcore import directions, distances_of
from lrdan_edge.train.frozen_backbone import FrozenBackbone
from lrdan_edge.train.known_defects import KnownDefects
from lrdan_edge.train.recipes.backbone import backbone_input
from lrdan_edge.train.recipes.coreset import PROJECTED, greedy_coreset

LEAST_DEVIATION = 1e-3
"""The smallest deviation that a feature is divided by; features are about 1."""

REGULARISATION = 0.05
"""Added to the diagonal of each covariance, as a fraction of the differences' mean variance."""

FOLDS = 4
"""Parts of the good images that are measured in turn by the Gaussians or the memory of the others."""

MEMORY_SIZE = 2048
"""Rows of the memory."""

CANDIDATES = 20_000
"""About how many features the memory is chosen from: the same number of random positions of each image, rounded up."""

ROWS_PER_DEFECT = 8
"""Positions of each known defect whose features are kept."""

LEAST_COVERED = 0.25
"""The fraction of a position that a mask must cover for the position to be used; the position that it covers most always is."""

_AT_ONCE = 256  # positions whose covariances are factorised together


@torch.no_grad()
def standardise_features(network: FeatureRestorer, frames: Tensor, batch_size: int = 16) -> None:
    """Set the network's mean and deviation of features to those of good images.

    Args:
        network: The network, with its backbone's weights.
        frames: Good images, uint8 [N, C, H, W].
        batch_size: Images per forward pass.
    """
    device = next(network.parameters()).device
    backbone = FrozenBackbone(network.backbone)
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    for part in torch.split(frames, batch_size):
        x = backbone_input(part.to(device))
        found = [one.double() for one in backbone(x)[1:]]
        sums = _added(sums, [one.mean((2, 3)).sum(0) for one in found])
        squares = _added(squares, [one.square().mean((2, 3)).sum(0) for one in found])
    for place, (total, square) in enumerate(zip(sums, squares, strict=True)):
        mean = total / len(frames)
        deviation = (square / len(frames) - mean.square()).clamp_min(0).sqrt().clamp_min(LEAST_DEVIATION)
        network.get_buffer(f"mean_{place}").copy_(mean[None, :, None, None])
        network.get_buffer(f"inverse_{place}").copy_(1 / deviation[None, :, None, None])


@torch.no_grad()
def fit_maps(network: FeatureRestorer, frames: Tensor, batch_size: int = 16, known: KnownDefects | None = None) -> None:
    """Set the constants of the network's maps of evidence to good images'; the network is left in evaluation mode.

    Args:
        network: The trained network.
        frames: Good images, uint8 [N, C, H, W].
        batch_size: Images per forward pass.
        known: Labelled defects, or None.
    """
    network.eval()
    device = next(network.parameters()).device
    backbone = FrozenBackbone(network.backbone)
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    differences: list[Tensor] = []
    coarse: list[Tensor] = []
    for part in torch.split(frames, batch_size):
        x = backbone_input(part.to(device))
        found = backbone(x)
        features = network.standardised(found)[1:]
        restored = network.ae2(features)
        coarse.append(found[-1].half())
        differences.append(network.distance.averaged(features[-1], restored[-1]).half())
        errors = [one.double() for one in network.error.errors(features, restored)]
        sums = _added(sums, [one.sum(0, keepdim=True) for one in errors])
        squares = _added(squares, [one.square().sum(0, keepdim=True) for one in errors])
    for place, (total, square) in enumerate(zip(sums, squares, strict=True)):
        mean, mean_square = total / len(frames), square / len(frames)
        deviation = (mean_square - mean.square()).clamp_min(0).sqrt()
        overall = (mean_square.mean((2, 3), keepdim=True) - mean.mean((2, 3), keepdim=True).square()).clamp_min(0).sqrt()
        network.error.fit(place, mean, deviation, overall)
    fit_distances(network.distance, torch.cat(differences))
    good = torch.cat(coarse)
    cosines = fit_memory(network.nearest, good)
    if known:
        defects = [backbone(backbone_input(part.to(device)))[-1] for part in torch.split(known.frames, batch_size)]
        fit_known(network, torch.cat(defects), known.masks.to(device), good, cosines)


def _added(totals: list[Tensor], parts: list[Tensor]) -> list[Tensor]:
    return [one + other for one, other in zip(totals, parts, strict=True)] if totals else parts


@torch.no_grad()
def fit_distances(distance: DistanceMap, differences: Tensor) -> None:
    """Set the Gaussians of a distance map, and the mean and deviation of largest distances.

    These come from cross-fitting: each quarter of the images is measured by the Gaussians of the others. An image's distance from
    Gaussians that it had a part in is too small, and with few images much too small.

    Args:
        distance: The map.
        differences: AE2's averaged differences for good images, float [N, K, h, w].
    """
    samples = differences.flatten(2).permute(2, 0, 1).float()  # position first
    folds = folds_of(samples.shape[1]).to(samples.device)
    largest = []
    for fold in range(min(FOLDS, samples.shape[1]) if samples.shape[1] > 1 else 0):
        fit_gaussians(distance.gaussians, samples[:, folds != fold])
        largest.append(distance.gaussians(differences[folds == fold].float()).amax(1))
    fit_gaussians(distance.gaussians, samples)
    distance.fit_scale(torch.cat(largest) if largest else distance.gaussians(differences.float()).amax(1))


@torch.no_grad()
def fit_memory(nearest: NearestMap, features: Tensor) -> Tensor:
    """Choose the memory of a nearest map, and set the mean and deviation of largest distances.

    Each quarter of the images is measured without the rows that come from it; the memory is chosen once, from all images.

    Args:
        nearest: The map.
        features: The backbone's features of good images, float [N, K, h, w].

    Returns:
        The features' cosines with the nearest row of the other quarters' images, float32 [N, P].
    """
    rng = torch.Generator().manual_seed(0)  # for the positions and the projection
    flat = features.flatten(2)
    count, channels, positions = flat.shape
    per_image = min(positions, -(-CANDIDATES // count))
    places = torch.rand(count, positions, generator=rng).argsort(1)[:, :per_image].to(flat.device)
    candidates = directions(flat.gather(2, places[:, None].expand(-1, channels, -1)).transpose(1, 2).flatten(0, 1).float())
    projection = torch.randn(channels, PROJECTED, generator=rng).to(flat.device)
    chosen = greedy_coreset(candidates @ projection, min(MEMORY_SIZE, len(candidates)))
    folds = folds_of(count).to(flat.device)
    sources = folds[chosen // per_image]
    found = []
    for fold in range(int(folds.max()) + 1):
        others = chosen[sources != fold]
        nearest.memory.fill(candidates[others if len(others) else chosen])
        found += [nearest.memory.cosines(part) for part in torch.split(features[folds == fold], 8)]
    nearest.memory.fill(candidates[chosen])
    cosines = torch.cat(found)
    nearest.fit_scale(distances_of(cosines).amax(1))
    return cosines


@torch.no_grad()
def fit_known(network: FeatureRestorer, defects: Tensor, masks: Tensor, features: Tensor, cosines: Tensor) -> None:
    """Fill the memory of known defects with the features that are least like good ones, and set its scale by good images.

    Args:
        network: The network, with its memory of good images' features.
        defects: The backbone's features of the defects, float [K, C, h, w].
        masks: Their masks, float32 [K, H, W]; all 0 if the place of the defect is not known.
        features: Those of good images, float [N, C, h, w].
        cosines: What `fit_memory` returned for them.
    """
    covered = F.adaptive_avg_pool2d(masks, (defects.shape[2], defects.shape[3])).flatten(1)
    counts = (covered > LEAST_COVERED) | (covered == covered.amax(1, keepdim=True))  # all positions, without a mask
    distances = distances_of(network.nearest.memory.cosines(defects)).masked_fill(~counts, -1)
    found = distances.topk(min(ROWS_PER_DEFECT, distances.shape[1]), 1)
    vectors = defects.flatten(2).transpose(1, 2)
    taken = torch.cat(
        [one[places[values >= 0]] for one, places, values in zip(vectors, found.indices, found.values, strict=True)]
    )
    network.known.memory.fill(directions(taken.float()))
    parts = zip(torch.split(features, 8), torch.split(cosines, 8), strict=True)
    network.known.fit_scale(torch.cat([network.known.excess(*part).amax(1) for part in parts]))


def folds_of(images: int) -> Tensor:
    """The fold of each image, int64 [images]: neighbours, which may be near-copies, share one."""
    return torch.arange(images) * min(FOLDS, images) // images


def fit_gaussians(gaussians: PositionGaussians, samples: Tensor) -> None:
    """Fit one Gaussian per position.

    Args:
        gaussians: The Gaussians, of all features.
        samples: Float32 [P, N, D].
    """
    identity = torch.eye(samples.shape[2], device=samples.device)
    weight = REGULARISATION * samples.var((0, 1), unbiased=False).mean().clamp_min(LEAST_DEVIATION**2)
    for start in range(0, len(samples), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        mean = samples[part].mean(1, keepdim=True)
        centred = samples[part] - mean
        covariance = centred.transpose(1, 2) @ centred / max(1, centred.shape[1] - 1)
        factor = torch.linalg.cholesky(covariance + weight * identity)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        gaussians.mean[part] = mean
        gaussians.whitening[part] = inverse.transpose(1, 2)
