"""What every detector of the protocol promises, and each against something independent where there is one."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from lrdan_edge.errors import DataError, LrdanError
from lrdan_edge.protocol.baselines import DETECTORS
from lrdan_edge.protocol.baselines.base import Detector, Training
from lrdan_edge.protocol.baselines.geom import TRANSFORMATIONS, places_of, transformed
from lrdan_edge.protocol.baselines.pca import COMPONENTS

CPU = torch.device("cpu")
NAMES = tuple(name for name in DETECTORS if name not in ("lrdan", "restoration"))


def frames(count: int, channels: int = 1, side: int = 28, seed: int = 0) -> torch.Tensor:
    """Noisy stripes, uint8 [N, C, side, side]."""
    rng = np.random.default_rng(seed)
    stripes = 128 + 60 * np.sin(np.arange(side) * 0.7 + rng.uniform(0, 1, (count, 1, 1, 1)))
    noisy = stripes + rng.normal(0, 10, (count, channels, side, side))
    return torch.from_numpy(np.clip(noisy, 0, 255).astype(np.uint8))


def fitted(name: str, good: torch.Tensor, steps: int = 3, seed: int = 0) -> Detector:
    detector = DETECTORS[name]()
    detector.fit(Training(good=good, steps=steps, seed=seed, device=CPU))
    return detector


GOOD = frames(12)


@cache
def fitted_once(name: str) -> Detector:
    return fitted(name, GOOD)


@cache
def alone(name: str) -> torch.Tensor:
    """The score of every image, asked for by itself."""
    return torch.cat([fitted_once(name).score(frame[None]) for frame in GOOD])


@pytest.mark.parametrize("name", NAMES)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=14))
@settings(max_examples=8, deadline=None)
def test_a_score_depends_only_on_its_own_image(name: str, indices: list[int]) -> None:
    scores = fitted_once(name).score(GOOD[indices])
    assert (scores.dtype, scores.shape) == (torch.float32, (len(indices),))
    small = 2e-3 if name == "dn2" else 1e-5  # the distance of an image from itself is the root of a rounding error
    torch.testing.assert_close(scores, alone(name)[indices], rtol=1e-5, atol=small)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_determines_the_result_and_the_callers_generator_is_unchanged(name: str) -> None:
    before = torch.get_rng_state()
    assert torch.equal(fitted(name, GOOD).score(GOOD), fitted_once(name).score(GOOD))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 96)])
def test_other_image_shapes_are_supported(name: str, channels: int, side: int) -> None:
    good = frames(6, channels, side)
    assert torch.isfinite(fitted(name, good, steps=1).score(good[:2])).all()


@pytest.mark.parametrize("name", NAMES)
def test_wrong_images_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="uint8"):
        fitted(name, GOOD.float())
    with pytest.raises(LrdanError):
        fitted(name, GOOD[:0])


def test_every_detector_describes_itself() -> None:
    assert all(getattr(fitted_once(name), "recipe", "") for name in NAMES)


def test_nearest_neighbour_is_scipys() -> None:
    others = frames(10, seed=1)
    expected = cdist(others.flatten(1).numpy().astype(np.float64), GOOD.flatten(1).numpy().astype(np.float64)).min(1)
    np.testing.assert_allclose(fitted_once("pixel-1nn").score(others).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("count", [24, 1000])  # fewer images than pixels, and more
def test_principal_components_are_scikit_learns(count: int) -> None:
    good, others = frames(count), frames(10, seed=1)
    reference = PCA(COMPONENTS, svd_solver="full").fit(good.flatten(1).numpy().astype(np.float64))
    x = others.flatten(1).numpy().astype(np.float64)
    expected = np.square(x - reference.inverse_transform(reference.transform(x))).mean(1)
    np.testing.assert_allclose(fitted("pca", good).score(others).numpy(), expected, rtol=1e-4)


def test_geoms_transformations_are_72_different_ones() -> None:
    image = torch.arange(3 * 16 * 16).view(1, 3, 16, 16)
    results = transformed(image.expand(72, -1, -1, -1), torch.arange(72), places_of(16))
    assert len({tuple(result.flatten().tolist()) for result in results}) == 72


@given(st.integers(0, 71), st.sampled_from([4, 7, 28]))
def test_geoms_transformations_are_numpys(label: int, side: int) -> None:
    mirrored, down, right, turns = TRANSFORMATIONS[label]
    image = np.random.default_rng(label).normal(size=(2, side, side)).astype(np.float32)
    expected = image[:, :, ::-1] if mirrored else image
    quarter = side // 4
    for axis, move in ((1, down), (2, right)):
        padded = np.pad(expected, [(quarter, quarter) if at == axis else (0, 0) for at in range(3)], mode="reflect")
        expected = np.take(padded, np.arange(side) + quarter * (1 - move), axis)
    expected = np.rot90(expected, turns, (1, 2))
    found = transformed(torch.from_numpy(image)[None], torch.tensor([label]), places_of(side))
    np.testing.assert_array_equal(found[0].numpy(), expected)


@pytest.mark.parametrize("name", ["autoencoder", pytest.param("geom", marks=pytest.mark.slow), "pca", "pixel-1nn"])
def test_distant_images_score_higher(name: str) -> None:
    detector = fitted(name, frames(64), steps=60)
    turned = frames(16, seed=2).transpose(-1, -2).contiguous()
    assert detector.score(turned).median() > detector.score(frames(16, seed=3)).median()
