"""PaDiM, PatchCore and DN2 against float64 in numpy, SciPy and scikit-learn, for every size, colour and precision."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from published import oracle, seen_by_backbone
from scipy.spatial.distance import cdist
from sklearn.covariance import EmpiricalCovariance
from torch import Tensor
from torch.nn import functional as F

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.errors import BundleError
from lrdan_edge.model.architectures import network_for
from lrdan_edge.model.features import Enlargement, FeatureGrid, FeatureNetwork
from lrdan_edge.model.padim import Padim
from lrdan_edge.model.patchcore import PatchCore
from lrdan_edge.train.learner import LearnerOptions
from lrdan_edge.train.recipes import recipe_named
from lrdan_edge.train.recipes.coreset import greedy_coreset

SIZES = [(28, 28), (36, 100), (64, 64), (100, 132)]


def fitted(name: str, images: Tensor, **changes: Any) -> FeatureNetwork:
    """A recipe's network, fitted to images uint8 [N, C, H, W]."""
    from dataclasses import replace

    recipe = recipe_named(name)
    channels: Any = images.shape[1]
    hyperparameters = replace(recipe.defaults, **changes)
    spec = recipe.spec_for(images.shape[2], images.shape[3], channels, hyperparameters)
    torch.manual_seed(0)
    networks = recipe.networks_for(spec)
    learner = recipe.learner_for(networks, spec, images, hyperparameters, LearnerOptions())
    for step, part in enumerate(torch.split(images, 8)):
        learner.step(*learner.prepare(part, step))
    recipe.finish(networks, images, recipe.preprocessing_for(spec), recipe.scoring_for(spec), spec)
    assert [name for name in networks.state_dict() if not name.startswith("network.")] == []
    network: FeatureNetwork = networks.network
    return network


def noise(count: int, channels: Literal[1, 3], size: tuple[int, int], seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, channels, size[0] // 4, size[1] // 4)))
    return F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 255).to(torch.uint8)


def features_of(network: FeatureNetwork, images: Tensor) -> npt.NDArray[np.float64]:
    """[N, P, K] in float64, standardised by nothing."""
    with torch.inference_mode():
        found = network.features(seen_by_backbone(images))
    return found.flatten(2).transpose(1, 2).double().numpy()


def distances_of(network: FeatureNetwork, images: Tensor) -> npt.NDArray[np.float64]:
    with torch.inference_mode():
        found = network.distances(network.features(seen_by_backbone(images)))
    return found.flatten(1).double().numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_padim_is_the_mahalanobis_distance(size: tuple[int, int], channels: Literal[1, 3]) -> None:
    images = noise(21, channels, size)
    network = fitted("padim", images)
    assert isinstance(network, Padim)
    chosen = network.gaussians.dimensions.numpy()
    assert len(set(chosen)) == 100
    good, others = (features_of(network, one)[:, :, chosen] for one in (images, noise(3, channels, size, seed=1)))
    deviation = good.reshape(-1, 100).std(0)
    good, others = good / deviation, others / deviation
    expected = np.empty(others.shape[:2])
    for place in range(good.shape[1]):
        covariance = EmpiricalCovariance().fit(good[:, place]).covariance_ * 21 / 20 + 0.01 * np.eye(100)
        centred = others[:, place] - good[:, place].mean(0)
        expected[:, place] = np.sqrt(np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred))
    np.testing.assert_allclose(distances_of(network, noise(3, channels, size, seed=1)), expected, rtol=2e-3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_patchcore_is_the_distance_to_the_nearest_row(size: tuple[int, int], channels: Literal[1, 3]) -> None:
    images = noise(21, channels, size)
    network = fitted("patchcore", images, memory_size=200)
    assert isinstance(network, PatchCore)
    good, others = (features_of(network, one) for one in (images, noise(3, channels, size, seed=1)))
    good, others = (one / np.linalg.norm(one, axis=2, keepdims=True) for one in (good, others))
    rows = network.memory.rows.double().numpy()
    assert len(rows) == min(200, good.shape[0] * good.shape[1])
    every = good.reshape(-1, good.shape[2])
    assert cdist(rows, every).min(1).max() < 1e-3  # the memory consists of features of good images
    expected = np.stack([cdist(one, rows).min(1) for one in others])
    np.testing.assert_allclose(distances_of(network, noise(3, channels, size, seed=1)), expected, rtol=2e-3)


def test_a_memory_of_every_feature_gives_no_distance_to_the_good_images() -> None:
    images = noise(5, 1, (32, 32))
    network = fitted("patchcore", images)
    assert distances_of(network, images).max() < 0.005
    assert distances_of(network, noise(5, 1, (32, 32), seed=1)).min() > 0.05


def test_the_coreset_is_greedy() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    chosen = [0]
    while len(chosen) < 40:
        chosen.append(int(cdist(rows, rows[chosen]).min(1).argmax()))
    assert greedy_coreset(torch.from_numpy(rows), 40).tolist() == chosen
    assert sorted(greedy_coreset(torch.zeros(6, 3), 6).tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("before", [(4, 4), (7, 13), (8, 33)], ids=str)
def test_maps_are_enlarged_as_torch_does(before: tuple[int, int]) -> None:
    maps = torch.rand(2, *before)
    expected = F.interpolate(maps[:, None], size=(100, 132), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(Enlargement(before, (100, 132))(maps), expected)
    fine, coarse = torch.rand(2, 3, 25, 33), torch.rand(2, 5, *before)
    expected = F.interpolate(F.avg_pool2d(coarse, 3, 1, 1, count_include_pad=False), size=(25, 33), mode="bilinear")
    found = FeatureGrid([(25, 33), before])([fine, coarse])
    torch.testing.assert_close(found[:, 3:], expected)
    assert found[0, 0, 0, 0] == pytest.approx(float(fine[0, 0, :2, :2].mean()))  # a border has fewer neighbours


@pytest.mark.parametrize("name", ["padim", "patchcore"])
def test_weights_restore_the_network(name: str) -> None:
    images = noise(9, 3, (40, 48))
    network = fitted(name, images)
    recipe = recipe_named(name)
    other = network_for(recipe.spec_for(40, 48, 3, recipe.defaults))
    other.load_state_dict(network.state_dict())
    x = (images.float() - 127) / 128
    with torch.inference_mode():
        heat = network.anomaly_map(x, "error")
        torch.testing.assert_close(other.anomaly_map(x, "error"), heat)
    assert (tuple(heat.shape), heat.dtype) == ((9, 1, 40, 48), torch.float32)
    with pytest.raises(BundleError, match=r"scoring.source is defects, but this network marks none"):
        network.anomaly_map(x, "defects")


@pytest.mark.parametrize("name", ["padim", "patchcore"])
def test_distances_stay_in_float32(name: str) -> None:
    network = fitted(name, noise(9, 1, (32, 32))).half()
    halves = {parameter.dtype for parameter in network.backbone.parameters()}
    assert halves == {torch.float16}
    kept = {tensor.dtype for key, tensor in network.named_buffers() if not key.startswith("backbone.")}
    assert kept <= {torch.float32, torch.int64}


def test_a_specification_without_its_backbone_is_refused() -> None:
    shape: dict[str, Any] = {"base_channels": 32, "latent_channels": 100, "downsamplings": 4, "decoder": "resize"}
    for wrong in (
        {},
        {"backbone": "efficientnet-lite0"},
        {"strides": (8,)},
        {"backbone": "efficientnet-lite0", "strides": (16, 8)},
    ):
        with pytest.raises(ValueError, match="strides"):
            ModelSpec(recipe="padim", height=32, width=32, channels=1, architecture="padim", **shape, **wrong)


@pytest.mark.parametrize(("size", "channels"), [((32, 32), 3), ((48, 64), 1), ((164, 172), 3)], ids=str)
def test_dn2_is_the_distance_of_mean_features_from_the_nearest(size: tuple[int, int], channels: Literal[1, 3]) -> None:
    published = oracle("efficientnet-lite0")
    good, others = noise(5, channels, size), noise(3, channels, size, seed=1)

    def means(images: Tensor) -> npt.NDArray[np.float64]:
        x = 0.45 * seen_by_backbone(images).expand(-1, 3, -1, -1).flip(1)
        if min(size) < 160:
            sides = [round(side * 160 / min(size)) for side in size]
            x = F.interpolate(x, size=sides, mode="bilinear", align_corners=False)
        x = published._swish(published._bn0(published._conv_stem(x)))
        for block in published._blocks:
            x = block(x)
        found: npt.NDArray[np.float64] = x.mean((2, 3)).detach().double().numpy()
        return found

    network = fitted("dn2", good)
    with torch.inference_mode():
        maps = network.anomaly_map(seen_by_backbone(others), "error").numpy()
    assert maps.shape == (3, 1, *size)
    expected = np.sqrt(2 * cdist(means(others), means(good), "cosine").min(1))
    np.testing.assert_allclose(maps, np.broadcast_to(expected[:, None, None, None], maps.shape), rtol=2e-3)
