"""Thresholds from out-of-fold scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrdan_edge.calibration.cross import cross_conformal, largest_of_groups
from lrdan_edge.calibration.decision import conformal_threshold
from lrdan_edge.data.grouping import fold_numbers
from lrdan_edge.errors import CalibrationError, DataError


def test_every_image_counts_and_parts_count_once() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 3).tolist()
    scores = rng.normal(size=180).astype(np.float32)
    folds = fold_numbers(groups, 5)
    by_part = cross_conformal(scores, folds, 0.02, groups)
    assert by_part.threshold == conformal_threshold(scores, 0.02, groups)
    assert (by_part.covers, by_part.n, by_part.groups, by_part.folds) == ("parts", 180, 60, 5)
    unknown = cross_conformal(scores, folds, 0.02)
    assert unknown.threshold == conformal_threshold(scores, 0.02)
    assert (unknown.covers, unknown.groups) == ("images", None)
    few = cross_conformal(scores, folds, 0.01, groups)
    assert (few.covers, few.groups) == ("images", 60), "60 parts cannot promise 1 %, 180 images can"
    assert few.threshold == conformal_threshold(scores, 0.01)


@pytest.mark.parametrize(
    ("folds", "groups", "said"),
    [
        ([0] * 99 + [1], None, "need a fold each"),
        ([0, 1] * 60, list(range(119)), "need a fold each, and a group each"),
        ([0] * 120, None, "at least two"),
        ([0, 1] * 60, [place // 2 for place in range(120)], "a group of images is in two folds"),
    ],
)
def test_folds_that_prove_nothing_are_refused(folds: list[int], groups: list[int] | None, said: str) -> None:
    with pytest.raises(CalibrationError, match=said):
        cross_conformal(np.zeros(120, np.float32), folds, 0.02, groups)


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=100), st.integers(2, 6), st.integers(0, 9))
def test_folds_hold_whole_groups_and_are_about_equally_large(groups: list[int], folds: int, seed: int) -> None:
    if len(set(groups)) < folds:
        with pytest.raises(DataError, match="cannot make"):
            fold_numbers(groups, folds, seed)
        return
    own = fold_numbers(groups, folds, seed)
    assert set(own) == set(range(folds))
    assert len(set(zip(groups, own, strict=True))) == len(set(groups))
    sizes, largest = np.bincount(own), max(groups.count(group) for group in groups)
    assert sizes.max() - sizes.min() <= largest
    assert own == fold_numbers(groups, folds, seed)


def test_no_image_of_a_new_part_is_rejected_as_promised() -> None:
    rng, rate, kept = np.random.default_rng(1), 0.1, []
    groups = np.repeat(np.arange(39), 4).tolist()
    for _ in range(1000):
        scores = (rng.normal(size=(39, 1)) + 0.5 * rng.normal(size=(39, 4))).astype(np.float32)
        new = rng.normal(size=(50, 1)) + 0.5 * rng.normal(size=(50, 4))
        kept.append(np.mean(new.max(1) > conformal_threshold(largest_of_groups(scores.ravel(), groups), rate)))
    assert np.mean(kept) == pytest.approx(rate, abs=4 * np.std(kept) / 1000**0.5)


def test_the_pooled_threshold_of_a_stable_model_keeps_its_rate() -> None:
    """Distance from the mean of the training images, in five dimensions: fitted on all, judged by out-of-fold scores."""
    rng, rate, rates = np.random.default_rng(2), 0.05, []
    for _ in range(300):
        good, new = rng.normal(size=(100, 5)), rng.normal(size=(200, 5))
        folds = np.array(fold_numbers(list(range(100)), 5))
        scores = np.zeros(100, np.float32)
        for fold in range(5):
            centre = good[folds != fold].mean(0)
            scores[folds == fold] = np.linalg.norm(good[folds == fold] - centre, axis=1)
        found = cross_conformal(scores, folds.tolist(), rate)
        rates.append(np.mean(np.linalg.norm(new - good.mean(0), axis=1) > found.threshold))
    assert np.mean(rates) == pytest.approx(rate, abs=0.01)


def test_the_largest_score_of_each_group() -> None:
    scores = np.array([3, 1, 5, 2, 4], np.float32)
    assert largest_of_groups(scores, [7, 2, 2, 7, 9]).tolist() == [5, 3, 4]
