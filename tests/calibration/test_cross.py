"""Thresholds from out-of-fold scores."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrdan_edge.bundle.decision import Decision, GraphDecision
from lrdan_edge.bundle.encoding import from_json, to_json
from lrdan_edge.bundle.out_of_fold import OutOfFold
from lrdan_edge.calibration.cross import cross_conformal, decide_graph, largest_of_groups, pooled_scores
from lrdan_edge.calibration.decision import ThresholdTarget, conformal_threshold, promise_in_words
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


def recorded(scores: list[float], folds: list[int], groups: list[int] | None = None) -> OutOfFold:
    names = [f"good/{place}.png" for place in range(len(scores))]
    return OutOfFold(schema_version=1, images=names, scores=scores, folds=folds, groups=groups)


def test_what_is_proven_counts_the_held_out_images_only() -> None:
    folds = sorted(fold_numbers(list(range(425)), 5))
    found = cross_conformal(np.arange(425, dtype=np.float32), folds, 0.02)
    assert found.proven_rate == pytest.approx(8 / 86)  # 0.02 * 426 = 8.52; the threshold is the eighth score from above
    groups = [place // 5 for place in range(425)]
    parts = cross_conformal(np.arange(425, dtype=np.float32), fold_numbers(groups, 5), 0.02, groups)
    assert parts.proven_rate == pytest.approx(0.02 * 86 / 18)
    few = cross_conformal(np.arange(10, dtype=np.float32), [0, *[1] * 9], 0.5)
    assert few.proven_rate == 1


def test_a_model_as_stable_as_the_others_keeps_the_rate() -> None:
    """The network in use is that of fold 0: distance from the mean of its training images, in five dimensions."""
    rng, rate, rates = np.random.default_rng(3), 0.05, []
    for _ in range(400):
        good, new = rng.normal(size=(120, 5)), rng.normal(size=(200, 5))
        folds = np.array(fold_numbers(list(range(120)), 5))
        centres = [good[folds != fold].mean(0) for fold in range(5)]
        scores = np.linalg.norm(good - np.array(centres)[folds], axis=1).astype(np.float32)
        found = cross_conformal(scores, folds.tolist(), rate)
        rates.append(np.mean(np.linalg.norm(new - centres[0], axis=1) > found.threshold))
    assert np.mean(rates) - 2.33 * np.std(rates) / len(rates) ** 0.5 <= rate
    assert np.mean(rates) > 0.8 * rate


def test_even_the_worst_other_folds_cannot_break_what_is_proven() -> None:
    rng, rates = np.random.default_rng(4), []
    folds = sorted(fold_numbers(list(range(150)), 5))
    for _ in range(3000):
        scores = np.concatenate([rng.normal(size=30), np.full(120, -100.0)]).astype(np.float32)
        found = cross_conformal(scores, folds, 0.05)
        rates.append(np.mean(rng.normal(size=100) > found.threshold))
    assert found.proven_rate == pytest.approx(7 / 31)
    assert np.mean(rates) == pytest.approx(found.proven_rate, abs=2.33 * np.std(rates) / len(rates) ** 0.5), "it is sharp"


def test_scores_are_brought_to_the_scale_of_a_graph() -> None:
    rng = np.random.default_rng(5)
    scores, folds = rng.gamma(3, size=200).astype(np.float32), [0] * 40 + [1 + place % 4 for place in range(160)]
    found = recorded(scores.tolist(), folds)
    assert pooled_scores(scores[:40], found) == pytest.approx(scores, rel=1e-6)
    assert pooled_scores(3 * scores[:40] - 1, found) == pytest.approx(3 * scores - 1, rel=1e-5)
    rounded = (scores + rng.normal(0, 0.1, 200)).astype(np.float32)
    mapped = pooled_scores(rounded[:40], found)
    assert (mapped[:40] == rounded[:40]).all()
    assert np.abs(np.mean(mapped) - np.mean(rounded)) < 0.05
    assert (np.argsort(mapped[40:], kind="stable") == np.argsort(scores[40:], kind="stable")).all()
    alike = recorded([1.0, 1.0, 2.0, 3.0], [0, 0, 1, 2])
    assert pooled_scores(np.array([2, 2], np.float32), alike).tolist() == [2, 2, 3, 4]
    with pytest.raises(CalibrationError, match="41 held-out images, and out-of-fold scores of 40"):
        pooled_scores(scores[:41], found)


def test_a_decision_from_all_images() -> None:
    rng = np.random.default_rng(6)
    groups = [place // 2 for place in range(200)]
    scores = rng.normal(size=200).astype(np.float32)
    found = recorded(scores.tolist(), sorted(1 + g % 4 if g >= 20 else 0 for g in groups), None)
    target = ThresholdTarget("cross-fitted", 0.02)
    decision = decide_graph(scores[:40], target, "0" * 64, found, names=["x"] * 40, peaks=scores[:40] + 1, groups=groups[:40])
    assert decision.threshold == pytest.approx(conformal_threshold(scores, 0.02))
    assert (decision.rule, decision.n, decision.folds, decision.covers) == ("cross-fitted", 200, 5, "images")
    assert decision.proven_false_reject_rate == pytest.approx(4 / 41)
    assert decision.pixel_threshold == scores[:40].max() + 1
    assert decision.good_images[-1] == f"{int(np.argmax(scores))}.png"
    whole = Decision(schema_version=1, graphs={"fp32": decision})
    assert from_json(to_json(whole), Decision, "decision.json") == whole
    assert promise_in_words(decision) == (
        "about 2.00% of more images like these are expected to be rejected: 200 images, each scored by a network that did not "
        "learn from it; proven is only at most 9.8%"
    )
    older = {name: getattr(decision, name) for name in ("graph_sha256", "threshold", "false_reject_rate", "n")}
    read = msgspec.convert(older | {"good_scores": [1.0], "quantiles": {}}, GraphDecision)
    assert (read.rule, read.folds, read.proven_false_reject_rate) == ("conformal", None, None)
    with pytest.raises(CalibrationError, match="needs out-of-fold scores"):
        decide_graph(scores[:40], target, "0" * 64, None)
