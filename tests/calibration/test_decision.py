import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score

from lrdan_edge.bundle.decision import ThresholdRule
from lrdan_edge.calibration.decision import (
    ThresholdTarget,
    best_f1_threshold,
    conformal_rank,
    conformal_threshold,
    decide,
    images_needed,
    parts_note,
    pixel_threshold,
    promise_in_words,
    rate_interval,
    require_enough,
)
from lrdan_edge.errors import CalibrationError


@given(st.integers(1, 400), st.floats(0.005, 0.5))
def test_images_needed_is_the_smallest_that_works(n: int, rate: float) -> None:
    rank = math.ceil(round((n + 1) * (1 - rate), 9))
    assert (n >= images_needed(rate)) is (rank <= n)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=60, max_size=200), st.sampled_from([0.02, 0.05, 0.1]))
def test_threshold_is_the_order_statistic_by_counting(scores: list[float], rate: float) -> None:
    threshold = conformal_threshold(np.array(scores, np.float32), rate)
    n, wanted = len(scores), math.ceil(round((len(scores) + 1) * (1 - rate), 9))
    assert sum(score <= threshold for score in scores) >= wanted
    assert sum(score < threshold for score in scores) < wanted
    assert sum(score > threshold for score in scores) / n <= rate


def test_the_promised_rate_holds_on_average() -> None:
    """P(new score > threshold) ≤ α over calibration draws, and not far below it (Lei et al., 2018, Theorem 2.2)."""
    rng, rate, n = np.random.default_rng(0), 0.05, 99
    rejected = [
        (rng.gamma(2, size=200) > conformal_threshold(rng.gamma(2, size=n).astype(np.float32), rate)).mean()
        for _ in range(3000)
    ]
    error = np.std(rejected) / math.sqrt(len(rejected))
    assert np.mean(rejected) == pytest.approx(rate, abs=4 * error)


@pytest.mark.parametrize(("n", "rate"), [(49, 0.02), (99, 0.05), (30, 0.1)])
def test_rejections_follow_the_exact_beta_binomial_law(n: int, rate: float) -> None:
    """Of m new good parts, k are rejected as Beta-Binomial(m, n+1−rank, rank) says (Vovk, 2012), for any continuous scores."""
    rng, draws, m = np.random.default_rng(1), 4000, 50
    seen = np.zeros(m + 1)
    for _ in range(draws):
        threshold = conformal_threshold(rng.lognormal(size=n).astype(np.float32), rate)
        seen[np.count_nonzero(rng.lognormal(size=m) > threshold)] += 1
    rank = conformal_rank(n, rate)
    law = stats.betabinom(m, n + 1 - rank, rank)
    assert law.mean() / m <= rate
    expected = law.pmf(np.arange(m + 1)) * draws
    last = int(np.argmax(np.cumsum(expected[::-1]) > 20))  # rare counts together, so that the test is valid
    cut = m - last
    observed = [*seen[:cut], seen[cut:].sum()]
    assert stats.chisquare(observed, [*expected[:cut], expected[cut:].sum()]).pvalue > 1e-3


@pytest.mark.parametrize(("n", "rate"), [(85, 0.02), (60, 0.05), (1000, 0.01)])
def test_the_rate_interval_follows_the_beta_law(n: int, rate: float) -> None:
    decision = decide(np.arange(n, dtype=np.float32), ThresholdTarget(false_reject_rate=rate), "0" * 64)
    rank = conformal_rank(n, rate)
    assert rate_interval(decision) == pytest.approx(stats.beta(n + 1 - rank, rank).ppf([0.05, 0.95]), abs=1e-9)


def test_recall_is_promised_by_new_defects_too() -> None:
    rng, recall, m = np.random.default_rng(2), 0.9, 39
    target = ThresholdTarget("recall", false_reject_rate=0.99, recall=recall)
    good = np.full(200, -1e3, np.float32)
    found = []
    for _ in range(2000):
        decision = decide(good, target, "0" * 64, defects=rng.gamma(3, size=m).astype(np.float32))
        found.append((rng.gamma(3, size=200) > decision.threshold).mean())
    error = np.std(found) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(recall, abs=4 * error)


def test_a_recall_that_rejects_too_many_good_parts_is_refused_with_a_possible_rate() -> None:
    good, bad = np.arange(100, dtype=np.float32), np.arange(50, 150, dtype=np.float32)
    with pytest.raises(CalibrationError, match=r"rejects 0\.4\d+ .* false_reject_rate=0\.4"):
        decide(good, ThresholdTarget("recall", 0.1, 0.9), "0" * 64, defects=bad)
    granted = decide(good, ThresholdTarget("recall", 0.5, 0.9), "0" * 64, defects=bad)
    assert sum(score > granted.threshold for score in granted.good_scores) <= 0.5 * 100


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12),
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12),
)
def test_no_other_threshold_has_a_better_f1(good: list[float], bad: list[float]) -> None:
    low, high = np.array(good, np.float32), np.array(bad, np.float32)

    def f1(threshold: float) -> float:
        truth = [False] * len(low) + [True] * len(high)
        return float(f1_score(truth, [float(score) > threshold for score in (*low, *high)]))

    best = f1(best_f1_threshold(low, high))
    everything = {float(score) for score in (*low, *high)}
    assert all(f1(threshold) <= best + 1e-12 for threshold in [*everything, min(everything) - 1])


@pytest.mark.parametrize("rule", ["recall", "best-f1"])
def test_rules_that_need_defects_say_so(rule: ThresholdRule) -> None:
    with pytest.raises(CalibrationError, match="give their folder with defects"):
        ThresholdTarget(rule).require(100, 0)


def test_too_few_defects_for_a_recall_say_how_many_are_needed() -> None:
    with pytest.raises(CalibrationError, match=r"98 defective images .* needs 99: .* recall=0\.989 or less"):
        ThresholdTarget("recall", recall=0.99).require(100, 98)
    ThresholdTarget("recall", recall=0.99).require(100, 99)
    ThresholdTarget("recall", recall=0.989).require(100, 98)


def test_too_few_images_say_how_many_are_needed() -> None:
    with pytest.raises(CalibrationError, match=r"48 held-out good images .* needs 49: .* false_reject_rate=0\.021 or more"):
        require_enough(48, 0.02)
    require_enough(49, 0.02)
    require_enough(48, 0.021)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, float("nan")])
def test_rates_outside_zero_and_one_are_refused(rate: float) -> None:
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        require_enough(100, rate)


def test_nan_scores_are_refused() -> None:
    scores = np.ones(100, np.float32)
    scores[3] = np.nan
    with pytest.raises(CalibrationError, match="1 of 100 good scores"):
        decide(scores, ThresholdTarget(), "0" * 64)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=80), st.floats(0.01, 0.9))
def test_the_pixel_threshold_keeps_the_promised_rate(peaks: list[float], rate: float) -> None:
    threshold = pixel_threshold(np.array(peaks, np.float32), rate)
    above = sum(peak > threshold for peak in peaks)
    assert threshold in peaks
    assert above <= rate * (len(peaks) + 1) + 1e-6
    if len(peaks) < images_needed(rate):
        assert above == 0, "the largest one seen"


def test_nan_peaks_are_refused() -> None:
    with pytest.raises(CalibrationError, match="not finite"):
        pixel_threshold(np.array([1, np.nan], np.float32), 0.5)


def test_a_promise_from_few_parts_is_noted() -> None:
    assert parts_note(60, None, 0.02) == []
    assert parts_note(60, 49, 0.02) == []
    (said,) = parts_note(60, 10, 0.02)
    assert "60 held-out images show 10 parts" in said
    assert "for new parts 9.1% at best (49 parts would be enough)" in said


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=60, max_size=200), st.sampled_from([0.02, 0.05, 0.1]))
def test_with_one_image_per_part_groups_change_nothing(scores: list[float], rate: float) -> None:
    values = np.array(scores, np.float32)
    assert conformal_threshold(values, rate, list(range(len(values)))) == conformal_threshold(values, rate)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 5), min_size=20, max_size=60), st.integers(0, 1000), st.sampled_from([0.05, 0.1, 0.3]))
def test_every_part_counts_once_by_counting(sizes: list[int], seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    scores = rng.integers(0, 30, len(groups)).astype(np.float32)
    order = rng.permutation(len(groups))

    def kept(at: float) -> float:
        return sum(float(np.mean(scores[groups == group] <= at)) for group in range(len(sizes)))

    threshold = conformal_threshold(scores[order], rate, groups[order].tolist())
    needed = (len(sizes) + 1) * (1 - rate)
    assert kept(threshold) >= needed - 1e-6
    assert all(kept(lower) < needed for lower in scores if lower < threshold)
    again = conformal_threshold(np.repeat(scores, 3), rate, np.repeat(groups, 3).tolist())
    assert again == threshold, "more images of the same parts, with the same scores, promise nothing more"


def test_the_promise_to_new_parts_holds_by_parts_and_not_by_images() -> None:
    """Parts differ more than the images of one part, and the parts with many images are the easy ones."""
    rng, rate, parts = np.random.default_rng(3), 0.1, 19
    by_part, by_image = [], []
    for _ in range(1500):
        sizes = np.where(rng.random(parts) < 0.5, 8, 1)
        centres = rng.normal(size=parts) - 2 * (sizes == 8)
        groups = np.repeat(np.arange(parts), sizes)
        scores = (centres[groups] + 0.3 * rng.normal(size=len(groups))).astype(np.float32)
        new = rng.normal(size=200) - 2 * (rng.random(200) < 0.5) + 0.3 * rng.normal(size=200)
        by_part.append(np.mean(new > conformal_threshold(scores, rate, groups.tolist())))
        by_image.append(np.mean(new > conformal_threshold(scores, rate)))
    error = np.std(by_part) / math.sqrt(len(by_part))
    assert np.mean(by_part) <= rate + 4 * error
    assert np.mean(by_image) > 1.3 * rate


def test_a_decision_says_what_its_promise_covers() -> None:
    scores, target = np.arange(120, dtype=np.float32), ThresholdTarget(false_reject_rate=0.02)
    unknown = decide(scores, target, "0" * 64)
    assert (unknown.groups, unknown.covers, unknown.threshold) == (None, "images", 118)
    assert "more images like these 120; if several images show one part" in promise_in_words(unknown)
    enough = decide(scores, target, "0" * 64, groups=[place // 2 for place in range(120)])
    assert (enough.groups, enough.covers, enough.threshold) == (60, "parts", 119)
    assert promise_in_words(enough) == "the promised 2.00% holds for new parts like these: 120 held-out images of 60 parts"
    assert rate_interval(enough) == pytest.approx(stats.beta(1, 60).ppf([0.05, 0.95]))
    few = decide(scores, target, "0" * 64, groups=[place // 10 for place in range(120)])
    assert (few.groups, few.covers, few.threshold) == (12, "images", unknown.threshold)
    assert "for new parts 7.7% at best" in promise_in_words(few)
    bad = np.arange(110, 200, dtype=np.float32)
    other = decide(scores, ThresholdTarget("best-f1"), "0" * 64, defects=bad, groups=list(range(120)))
    assert (other.groups, other.covers) == (120, None)
    assert promise_in_words(other) == ""
