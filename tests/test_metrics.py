import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest, norm
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_curve

from lrdan_edge.metrics import (
    PixelAuroc,
    auroc,
    beta_quantile,
    binomial_bound,
    recall_above,
    recall_at,
    recall_of,
    roc_curve,
    threshold_at,
)

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


RATES = st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.3])


@given(st.integers(1, 300), st.data())
def test_the_interval_of_a_recall_is_clopper_and_pearsons(defective: int, data: st.DataObject) -> None:
    found = data.draw(st.integers(0, defective))
    recall = recall_of(found, defective)
    expected = binomtest(found, defective).proportion_ci(0.95, "exact")
    assert (recall.low, recall.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert recall.low <= recall.value <= recall.high


@given(st.integers(1, 200), st.integers(1, 200), st.floats(0.01, 0.99))
def test_beta_quantile_is_scipys(a: int, b: int, probability: float) -> None:
    assert beta_quantile(a, b, probability) == pytest.approx(beta(a, b).ppf(probability), abs=1e-9)


@given(SCORES, RATES)
def test_the_threshold_is_the_smallest_good_score_that_keeps_the_rate(good: list[float], rate: float) -> None:
    threshold = threshold_at(good, rate)
    assert threshold in good

    def rejected(at: float) -> int:
        return sum(score > at for score in good)

    assert rejected(threshold) <= rate * len(good) + 1e-9
    assert all(rejected(lower) > rate * len(good) + 1e-9 for lower in good if lower < threshold)
    if len(good) < 1 / rate:
        assert threshold == max(good), "too few good parts for the rate: none is rejected"


@given(SCORES, SCORES, RATES)
def test_recall_at_a_rate_is_the_highest_point_of_scikit_learns_curve(good: list[float], bad: list[float], rate: float) -> None:
    rejects, detections, _ = sklearn_curve([0] * len(good) + [1] * len(bad), good + bad, drop_intermediate=False)
    recall = recall_at(good, bad, rate)
    assert recall is not None
    assert recall.value == pytest.approx(detections[rejects <= rate + 1e-9].max())
    assert recall.value == recall_above(bad, threshold_at(good, rate)).value
    assert 0 <= recall.low <= recall.value <= recall.high <= 1
    assert recall == recall_at(good[::-1], bad[::-1], rate), "neither the order nor another call changes it"


def test_a_tie_with_the_threshold_counts_as_missed() -> None:
    recall = recall_at([0.0] * 98 + [1.0] * 2, [0.0, 0.5, 1.0])
    assert recall is not None
    assert recall.value == pytest.approx(2 / 3)
    assert recall_above([0.0, 0.5, 1.0], 1.0).value == 0


def test_recall_without_images_is_none() -> None:
    assert recall_at([], [1.0]) is None
    assert recall_at([1.0], []) is None


def test_an_interval_is_wide_where_every_defect_is_found() -> None:
    recall = recall_at(np.arange(100), np.full(20, 1e3))
    assert recall is not None
    assert (recall.value, recall.high) == (1, 1)
    assert recall.low == pytest.approx(recall_of(20, 20).low, abs=0.02)


@pytest.mark.parametrize(("n", "m", "rate"), [(300, 60, 0.05), (200, 200, 0.1), (1000, 40, 0.02)])
def test_the_interval_covers_the_recall_of_a_perfectly_known_threshold(n: int, m: int, rate: float) -> None:
    """In 95 % of experiments or a little more; with an interval for the defects only, clearly less often."""
    rng, covered, alone = np.random.default_rng(0), 0, 0
    true = norm.sf(norm.isf(rate), loc=2)
    for _ in range(400):
        good, bad = rng.normal(size=n), rng.normal(2, 1, size=m)
        recall, fixed = recall_at(good, bad, rate), recall_above(bad, threshold_at(good, rate))
        assert recall is not None
        covered += recall.low <= true <= recall.high
        alone += fixed.low <= true <= fixed.high
    assert covered >= 0.93 * 400
    assert covered >= alone
