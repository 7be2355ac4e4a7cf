"""AE2 on features: its error map against float64 in NumPy, SciPy and OpenCV, and the network for every size, colour and precision."""

from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from published import seen_by_backbone
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.spatial.distance import cdist
from specs import spec_for
from torch import Tensor
from torch.nn import functional as F

from lrdan_edge.model.architectures import network_for
from lrdan_edge.model.feature_restorer import STRIDES, FeatureRestorer
from lrdan_edge.model.folding import fold_batch_norm
from lrdan_edge.model.pretrained import load_pretrained
from lrdan_edge.train.known_defects import KnownDefects
from lrdan_edge.train.recipes.feature_restoration.statistics import LEAST_DEVIATION, fit_maps, standardise_features

SIZES = [(28, 28), (36, 100), (68, 60), (132, 92)]
Exact = npt.NDArray[np.float64]


def images_of(count: int, channels: Literal[1, 3], size: tuple[int, int], seed: int = 0) -> Tensor:
    """Smooth noise, uint8 [N, C, H, W]."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, channels, size[0] // 4, size[1] // 4)))
    return F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 255).to(torch.uint8)


def fitted(images: Tensor) -> FeatureRestorer:
    """A network whose AE2 and decoder are not trained, but whose constants are those of `images`."""
    torch.manual_seed(0)
    channels: Any = images.shape[1]
    network = network_for(spec_for(images.shape[2], images.shape[3], channels, recipe="feature-restoration")).eval()
    assert isinstance(network, FeatureRestorer)
    load_pretrained("efficientnet-lite0").load_into(network.backbone)
    standardise_features(network, images, batch_size=4)
    fit_maps(network, images, batch_size=4)
    return network


class Watched:
    """What passes through a network while it computes its map, in float64."""

    def __init__(self, network: FeatureRestorer, images: Tensor) -> None:
        hooks = [
            network.backbone.register_forward_hook(lambda _module, _inputs, output: self._keep("backbone", output)),
            network.ae2.register_forward_hook(lambda _module, inputs, output: self._keep("ae2", output, *inputs)),
            network.decoder.register_forward_hook(lambda _module, _inputs, output: self._keep("decoder", [output])),
        ]
        with torch.inference_mode():
            self.map: Exact = network.anomaly_map(seen_by_backbone(images), "defects").double().numpy()[:, 0]
            features = network.features(seen_by_backbone(images))
            restored = network.ae2(features[1:])
            self.error: Exact = network.error(features[1:], restored).double().numpy()
            self.distance: Exact = network.distance(features[-1], restored[-1]).double().numpy()
            self.nearest: Exact = (
                network.nearest(network.nearest.memory.cosines(network.backbone(seen_by_backbone(images))[-1])).double().numpy()
            )
        for hook in hooks:
            hook.remove()

    def _keep(self, name: str, output: list[Tensor], inputs: list[Tensor] | None = None) -> None:
        setattr(self, name, [one.double().numpy() for one in output])
        if inputs is not None:
            self.standardised = [one.double().numpy() for one in inputs]

    backbone: list[Exact]
    ae2: list[Exact]
    decoder: list[Exact]
    standardised: list[Exact]

    def errors(self) -> list[Exact]:
        """[N, 2, h, w] per stride: the mean square, and one minus the cosine."""
        found = []
        for f, r in zip(self.standardised, self.ae2, strict=True):
            cosine = (f * r).sum(1) / (np.linalg.norm(f, axis=1) * np.linalg.norm(r, axis=1))
            found.append(np.stack([((f - r) ** 2).mean(1), 1 - cosine], 1))
        return found


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_map_adds_marks_error_and_distances_and_its_peak_is_the_sum_of_their_peaks(
    size: tuple[int, int], channels: Literal[1, 3]
) -> None:
    images = images_of(10, channels, size)
    network = fitted(images)
    good, others = Watched(network, images), Watched(network, images_of(3, channels, size, seed=1))
    assert [one.shape[2:] for one in others.backbone] == [tuple(-(-side // stride) for side in size) for stride in STRIDES]
    for place, (raw, seen) in enumerate(zip(good.backbone[1:], good.standardised, strict=True)):
        deviation = np.maximum(raw.std((0, 2, 3), keepdims=True), LEAST_DEVIATION)
        np.testing.assert_allclose(seen, (raw - raw.mean((0, 2, 3), keepdims=True)) / deviation, atol=1e-4, err_msg=str(place))
    expected = np.zeros((3, *size))
    for known, new in zip(good.errors(), others.errors(), strict=True):
        floor = 0.25 * known.std((0, 2, 3), keepdims=True)
        deviations = (new - known.mean(0)) / (known.std(0) + floor)
        for index, one in enumerate(deviations.sum(1)):
            enlarged = cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR)
            expected[index] += gaussian_filter(enlarged, 4.0, mode="nearest", truncate=2.5) / 6
    np.testing.assert_allclose(others.error, expected, atol=2e-3 * expected.std())
    marks = others.decoder[0][:, 0]
    assert marks.shape == (3, size[0] // 2, size[1] // 2)
    distances = distances_of(good, others)
    np.testing.assert_allclose(others.distance, distances, atol=2e-2 * distances.std())
    distances = nearest_of(good, others, network.nearest.memory.rows.double().numpy())
    np.testing.assert_allclose(others.nearest, distances, atol=2e-2 * distances.std())
    maps = [np.kron(marks, np.ones((2, 2))), 0.5 * others.error, 0.5 * others.distance, others.nearest]
    maps = [one - 0.5 * one.mean((1, 2), keepdims=True) for one in maps]
    peaks = np.sum([one.max((1, 2)) for one in maps], 0)
    total = np.sum(maps, 0)
    np.testing.assert_allclose(others.map.max((1, 2)), peaks, rtol=1e-4)
    np.testing.assert_allclose(others.map, total + (peaks - total.max((1, 2)))[:, None, None], atol=1e-4 * total.std())


def distances_of(good: Watched, others: Watched) -> Exact:
    """The map of Mahalanobis distances, by NumPy's covariances and SciPy's distance, position by position."""

    def averaged(watched: Watched) -> Exact:
        difference = watched.standardised[-1] - watched.ae2[-1]
        counts = uniform_filter(np.ones(difference.shape[2:]), 3, mode="constant")
        return np.asarray(uniform_filter(difference, (1, 1, 3, 3), mode="constant") / counts)

    def measured(known: Exact, new: Exact) -> Exact:
        found = np.empty((len(new), *new.shape[2:]))
        weight = 0.05 * known.var((0, 2, 3)).mean()
        for row, column in np.ndindex(*new.shape[2:]):
            samples, mean = known[:, :, row, column], known[:, :, row, column].mean(0)
            inverse = np.linalg.inv(np.cov(samples, rowvar=False) + weight * np.eye(samples.shape[1]))
            found[:, row, column] = cdist(new[:, :, row, column], mean[None], "mahalanobis", VI=inverse)[:, 0]
        return found

    known, new = averaged(good), averaged(others)
    folds = np.arange(len(known)) * 4 // len(known)
    largest = np.concatenate([measured(known[folds != fold], known[folds == fold]).max((1, 2)) for fold in range(4)])
    return enlarged((measured(known, new) - largest.mean()) / largest.std(), others)


def enlarged(grids: Exact, watched: Watched) -> Exact:
    size = watched.map.shape[1:]
    return np.stack([cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR) for one in grids])


def nearest_of(good: Watched, others: Watched, rows: Exact) -> Exact:
    """The map of distances from the memory's `rows`, by SciPy; good images are measured by the rows of the other quarters."""

    def directions(watched: Watched) -> Exact:
        found = watched.backbone[-1]
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True)).transpose(0, 2, 3, 1)

    known, new = directions(good), directions(others)
    folds = np.arange(len(known)) * 4 // len(known)
    flat = known.reshape(-1, rows.shape[1])
    between = cdist(rows, flat)
    assert between.min(1).max() < 2e-3  # the rows are features of good images
    sources = folds[between.argmin(1) // (len(flat) // len(known))]
    largest = np.concatenate(
        [
            cdist(known[folds == fold].reshape(-1, rows.shape[1]), rows[sources != fold])
            .min(1)
            .reshape((folds == fold).sum(), -1)
            .max(1)
            for fold in range(4)
        ]
    )
    distances = np.stack([cdist(one.reshape(-1, rows.shape[1]), rows).min(1).reshape(one.shape[:2]) for one in new])
    return enlarged((distances - largest.mean()) / largest.std(), others)


@pytest.mark.parametrize("with_masks", [True, False])
def test_known_defects_add_a_map_of_what_resembles_them(*, with_masks: bool) -> None:
    images, defects, others = (images_of(count, 1, (68, 60), seed=seed) for seed, count in enumerate((10, 3, 4)))
    network, masks = fitted(images), torch.zeros(3, 68, 60)
    masks[:, 10:40, 8:30] = float(with_masks)
    before = Watched(network, others)
    fit_maps(network, images, known=KnownDefects(defects, masks, []))
    seen = [Watched(network, one) for one in (images, defects, others)]
    good, known, new = (one.backbone[-1] / np.linalg.norm(one.backbone[-1], axis=1, keepdims=True) for one in seen)
    rows, memory = (part.memory.rows.double().numpy() for part in (network.known, network.nearest))
    covered = cv2.resize(masks[0].numpy(), known.shape[:1:-1], interpolation=cv2.INTER_AREA) > 0.25
    expected = []
    for one in known:
        distances = np.where(
            covered | (not with_masks), cdist(one.reshape(112, -1).T, memory).min(1).reshape(one.shape[1:]), -1
        )
        places = np.argsort(distances.ravel())[::-1][: min(8, (distances >= 0).sum())]
        expected.append(one.reshape(112, -1).T[places])
    assert cdist(rows, np.concatenate(expected)).min(1).max() < 1e-3
    assert len(rows) == sum(map(len, expected))

    def resembles(vectors: Exact, references: Exact) -> Exact:
        found = 1 - cdist(vectors.transpose(0, 2, 3, 1).reshape(-1, 112), references, "cosine").min(1)
        return np.asarray(found.reshape(len(vectors), *vectors.shape[2:]))

    flat, folds = good.transpose(0, 2, 3, 1).reshape(-1, 112), np.arange(10) * 4 // 10
    sources = folds[cdist(memory, flat).argmin(1) // (len(flat) // 10)]
    parts = [good[folds == fold] for fold in range(4)]
    largest = np.concatenate(
        [(resembles(part, rows) - resembles(part, memory[sources != fold])).max((1, 2)) for fold, part in enumerate(parts)]
    )
    excess = enlarged((resembles(new, rows) - resembles(new, memory) - largest.mean()) / largest.std(), seen[2])
    excess -= 0.5 * excess.mean((1, 2), keepdims=True)
    total = before.map + excess
    peaks = before.map.max((1, 2)) + excess.max((1, 2))
    expected_map = total + (peaks - total.max((1, 2)))[:, None, None]
    np.testing.assert_allclose(seen[2].map, expected_map, atol=2e-2 * total.std())


def test_good_images_have_errors_about_zero_and_unit_deviation() -> None:
    images = images_of(40, 1, (64, 64))
    error = Watched(fitted(images), images).error
    assert abs(error.mean()) < 1e-3
    assert 0.1 < error.std() < 1


def test_the_decoder_does_not_train_ae2() -> None:
    network = fitted(images_of(4, 1, (36, 36))).train()
    restored, logits = network(seen_by_backbone(images_of(4, 1, (36, 36), seed=1)))
    logits.sum().backward()
    assert all(parameter.grad is None for parameter in network.ae2.parameters())
    assert all(parameter.grad is not None for parameter in network.decoder.parameters())
    assert [one.shape[2:] for one in restored] == [(9, 9), (5, 5), (3, 3)]


def test_weights_restore_the_network_and_folding_changes_nothing() -> None:
    images = images_of(6, 3, (60, 52))
    network = fitted(images)
    other = network_for(spec_for(60, 52, 3, recipe="feature-restoration")).eval()
    other.load_state_dict(network.state_dict())
    images = images_of(6, 3, (60, 52), seed=1)  # the distance of good images from themselves would be rounding errors
    expected = Watched(network, images).map
    fold_batch_norm(other)
    with torch.inference_mode():
        found = other.anomaly_map(seen_by_backbone(images), "defects")
    assert (tuple(found.shape), found.dtype) == ((6, 1, 60, 52), torch.float32)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=5e-3)


def test_the_error_stays_in_float32() -> None:
    network = fitted(images_of(4, 1, (32, 36))).half()
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float16}
    assert {buffer.dtype for buffer in network.error.buffers()} == {torch.float32}
    with torch.inference_mode():
        assert network.anomaly_map(seen_by_backbone(images_of(2, 1, (32, 36))), "defects").dtype == torch.float32


def test_a_specification_without_its_strides_is_refused() -> None:
    import msgspec

    spec = spec_for(32, 32, 1, recipe="feature-restoration")
    with pytest.raises(ValueError, match=r"needs a backbone and the strides \[2, 4, 8, 16\]"):
        FeatureRestorer(msgspec.structs.replace(spec, strides=(8, 16)))
