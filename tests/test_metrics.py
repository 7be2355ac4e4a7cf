import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_curve

from lrdan_edge.metrics import PixelAuroc, auroc, binomial_bound, roc_curve

SCORES = st.lists(st.integers(-5, 5).map(float) | st.floats(-100, 100), min_size=1, max_size=60)


@given(SCORES, SCORES)
def test_auroc_is_scikit_learns(good: list[float], bad: list[float]) -> None:
    labels = [0] * len(good) + [1] * len(bad)
    assert auroc(good, bad) == pytest.approx(roc_auc_score(labels, good + bad))


def test_auroc_without_images_is_nan() -> None:
    assert np.isnan(auroc([], [1.0]))
    assert np.isnan(PixelAuroc().value())


@given(SCORES, SCORES)
def test_roc_curve_is_scikit_learns(good: list[float], bad: list[float]) -> None:
    x, y = roc_curve(good, bad)
    want_x, want_y, _ = sklearn_curve([0] * len(good) + [1] * len(bad), good + bad, drop_intermediate=False)
    assert np.allclose(x, want_x)
    assert np.allclose(y, want_y)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_pixel_auroc_is_scikit_learns_over_all_pixels(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    pixels, maps, masks = PixelAuroc(), [], []
    for _ in range(4):
        mask = rng.random((20, 30)) < 0.1
        heat = (scale * (rng.normal(size=(20, 30)) + mask)).astype(np.float32)
        pixels.add(heat, mask)
        maps.append(heat.ravel())
        masks.append(mask.ravel())
    assert pixels.value() == pytest.approx(roc_auc_score(np.concatenate(masks), np.concatenate(maps)), abs=1e-4)


@given(st.integers(1, 2000), st.sampled_from([0.01, 0.02, 0.05, 0.2]))
def test_binomial_bound_is_scipys(n: int, rate: float) -> None:
    assert binomial_bound(n, rate) == binom.ppf(0.99, n, rate)
