import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lrdan_edge.bundle.decision import GraphDecision
from lrdan_edge.bundle.spec import Scoring
from lrdan_edge.errors import DataError
from lrdan_edge.runtime.rule import Region, Rule, parse_min_area, parse_region, parse_reject_after
from lrdan_edge.runtime.rule_filter import RegionThresholds, RuleFilter, TemporalFilter, pixel_threshold
from lrdan_edge.runtime.verdict import Outcome, Thresholder, Verdict

OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(["good", "reject", "fault"])
DECISION = GraphDecision(graph_sha256="0", threshold=1.0, false_reject_rate=0.02, n=1, good_scores=[0.5], quantiles={})


def verdict(outcome: Outcome, heatmap: npt.NDArray[np.float32] | None = None) -> Verdict:
    thresholder = Thresholder(DECISION)
    said = {
        "good": thresholder.verdict(0.5, heatmap),
        "reject": thresholder.verdict(2.0, heatmap),
        "fault": thresholder.fault("gone"),
    }[outcome]
    assert said.outcome == outcome
    return said


def could_be(window: list[Outcome], needed: int) -> set[bool]:
    """Whether the window rejects, for every way its faulty frames could have turned out: counted one by one."""
    answers = {0}
    for outcome in window:
        answers = {count + one for count in answers for one in {"good": (0,), "reject": (1,), "fault": (0, 1)}[outcome]}
    return {count >= needed for count in answers}


@given(st.lists(OUTCOMES, max_size=40), st.integers(1, 6), st.integers(0, 5))
def test_n_of_m_against_every_possible_outcome_of_the_faults(outcomes: list[Outcome], needed: int, more: int) -> None:
    rule_filter = RuleFilter(TemporalFilter(needed, needed + more))
    for place, own in enumerate(outcomes):
        said = rule_filter.apply(verdict(own))
        ways = could_be(outcomes[max(0, place + 1 - needed - more) : place + 1], needed)
        expected = "reject" if ways == {True} else "fault" if own == "fault" or ways == {True, False} else "good"
        assert said.outcome == expected
        assert said.frame_outcome == said.own_outcome == own, "what the frame says stays visible"
        assert (said.fault is not None) == ("fault" in (own, said.outcome))
        assert said.score == verdict(own).score


def test_a_single_reject_among_good_frames_is_forgiven() -> None:
    rule_filter = RuleFilter(TemporalFilter(2, 3))
    frames: list[Outcome] = ["good", "reject", "good", "good", "reject", "reject", "good", "good", "good"]
    said = [rule_filter.apply(verdict(own)).outcome for own in frames]
    assert said == ["good", "good", "good", "good", "good", "reject", "reject", "good", "good"]


def test_after_a_gap_no_frame_is_good_that_lost_rejects_could_have_rejected() -> None:
    rule_filter = RuleFilter(TemporalFilter(2, 3))
    assert rule_filter.apply(verdict("good")).outcome == "good"
    assert rule_filter.apply(verdict("fault"), gap=True).outcome == "fault"
    said = [rule_filter.apply(verdict("good")).outcome for _ in range(3)]
    assert said == ["fault", "good", "good"], "two of the lost frames may have been rejects until they leave the window"


def test_a_nan_threshold_is_refused() -> None:
    """No score exceeds NaN: every part was good."""
    for threshold in (math.nan, math.inf):
        with pytest.raises(DataError, match="must be finite"):
            Thresholder(DECISION, threshold)
    with pytest.raises(DataError, match="must be a number"):
        Rule(pixel_threshold=math.nan)


HEATMAPS = arrays.arrays(np.float32, (6, 8), elements=st.floats(-4, 4, width=32))
SHARES = st.integers(0, 7)


@given(HEATMAPS, SHARES, SHARES, st.floats(-3, 3), st.integers(1, 20), st.floats(0, 0.5))
def test_areas_and_regions_by_counting_pixels(
    heatmap: npt.NDArray[np.float32], left: int, top: int, limit: float, pixels: int, share: float
) -> None:
    top = min(top, 5)
    region = Region("label", (left / 8, top / 6, (8 - left) / 8, (6 - top) / 6), limit)
    rule = Rule(min_pixels=pixels, min_share=share, regions=(region,))
    area, exceeded = RegionThresholds(rule, 0.5, (6, 8)).exceeded(heatmap)
    inside = outside = 0
    for row in range(6):
        for column in range(8):
            if row >= top and column >= left:
                inside += float(heatmap[row, column]) > limit
            else:
                outside += float(heatmap[row, column]) > 0.5
    least = max(pixels, math.ceil(round(share * 48, 6)))
    assert area == inside + outside
    assert exceeded == (("elsewhere",) * (outside >= least) + ("label",) * (inside >= least))


def test_the_heatmap_decides_if_a_rule_needs_it() -> None:
    heatmap = np.zeros((4, 4), np.float32)
    heatmap[0, :3] = 2
    rule = Rule(min_pixels=4)
    rule_filter = RuleFilter(TemporalFilter(1, 1), RegionThresholds(rule, 1.0, (4, 4)))
    small = rule_filter.apply(verdict("reject", heatmap))
    assert (small.outcome, small.area, small.exceeded, small.score) == ("good", 3, (), 2.0)
    heatmap[3, 3] = 2
    large = rule_filter.apply(verdict("reject", heatmap))
    assert (large.outcome, large.area, large.exceeded) == ("reject", 4, ("elsewhere",))
    assert large.as_dict() == {
        "outcome": "reject",
        "score": 2.0,
        "threshold": 1.0,
        "p_value": 0.5,
        "frame_outcome": "reject",
        "area": 4,
        "exceeded": ["elsewhere"],
    }


@pytest.mark.parametrize("heatmap", [None, np.full((4, 4), np.nan, np.float32)])
def test_a_missing_or_nan_heatmap_is_a_fault(heatmap: npt.NDArray[np.float32] | None) -> None:
    rule_filter = RuleFilter(TemporalFilter(1, 1), RegionThresholds(Rule(min_pixels=4), 1.0, (4, 4)))
    said = rule_filter.apply(verdict("good", heatmap))
    assert said.outcome == "fault"
    assert "heatmap" in str(said.fault)


def test_a_region_can_be_excluded_and_follows_the_region_of_interest() -> None:
    heatmap = np.zeros((10, 10), np.float32)
    heatmap[:5, :5] = 9
    rule = Rule(regions=(parse_region("label=0.25,0.25,0.25,0.25:inf"),))
    # The heatmap shows the middle of the frame, so that the region is its upper left quarter.
    assert RegionThresholds(rule, 1.0, (10, 10), (0.25, 0.25, 0.5, 0.5)).exceeded(heatmap) == (0, ())
    assert RegionThresholds(rule, 1.0, (10, 10)).exceeded(heatmap)[1] == ("elsewhere",)
    with pytest.raises(DataError, match="lies outside the inspected part"):
        RegionThresholds(rule, 1.0, (10, 10), (0.6, 0.6, 0.4, 0.4))


@pytest.mark.parametrize("threshold", [1.0, -1.0])
def test_a_limit_can_be_relative_to_the_pixel_threshold(threshold: float) -> None:
    heatmap = np.full((4, 4), threshold + 0.4, np.float32)

    def exceeded(limit: str) -> tuple[int, tuple[str, ...]]:
        return RegionThresholds(Rule(regions=(parse_region(f"all=0,0,1,1:{limit}"),)), threshold, (4, 4)).exceeded(heatmap)

    assert exceeded("threshold+0.5") == (0, ())
    assert exceeded("threshold+0.3") == exceeded("threshold-0.5") == (16, ("all",))


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3, width=32))
def test_a_pixel_exceeds_the_limit_exactly_when_a_score_would(limit: float, value: float) -> None:
    area, _ = RegionThresholds(Rule(), limit, (1, 1)).exceeded(np.full((1, 1), value, np.float32))
    assert area == (value > limit)


def inspector(pooling: Any, *, nearby: bool = False, threshold: float | None = None, **decision: Any) -> Any:
    graph = GraphDecision(
        graph_sha256="0", threshold=7.0, false_reject_rate=0.02, n=1, good_scores=[0.5], quantiles={}, **decision
    )
    scoring = Scoring(normalise=False, smoothing_sigma=0, pooling=pooling, source="defects", nearby=nearby)
    manifest = SimpleNamespace(scoring=scoring)
    return SimpleNamespace(bundle=SimpleNamespace(path="bundle", manifest=manifest), thresholder=Thresholder(graph, threshold))


def test_sources_of_the_pixel_threshold() -> None:
    assert pixel_threshold(inspector("max")) == 7.0
    assert pixel_threshold(inspector("rms", pixel_threshold=3.0)) == 3.0
    assert pixel_threshold(inspector("max", nearby=True, pixel_threshold=9.0)) == 9.0
    assert pixel_threshold(inspector("max", threshold=8.0)) == 8.0
    with pytest.raises(DataError, match="calibrate --decision-only"):
        pixel_threshold(inspector("mean"))
    with pytest.raises(DataError, match="give pixel_threshold instead of threshold"):
        pixel_threshold(inspector("rms", threshold=8.0, pixel_threshold=3.0))


@pytest.mark.parametrize(
    "text", ["label", "label=0,0,1:2", "label=0,0,1,1", "=0,0,1,1:2", "label=0,0,2,1:2", "label=0,0,0,1:2", "label=0,0,1,1:nan",
             "elsewhere=0,0,1,1:2", "label=0,0,1,1:1.5x", "label=0,0,1,1:threshold", "label=0,0,1,1:threshold*2", "label=nan,0,1,1:2"]
)  # fmt: skip
def test_an_invalid_region_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        parse_region(text)


@pytest.mark.parametrize("text", ["0/3", "4/3", "2", "2/3/4", "a/b", "-1/3"])
def test_an_invalid_n_of_m_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="N/M"):
        parse_reject_after(text)


@pytest.mark.parametrize(("text", "area"), [("40", (40, 0.0)), ("0.5%", (1, 0.005)), ("100%", (1, 1.0))])
def test_areas_as_pixels_and_fractions(text: str, area: tuple[int, float]) -> None:
    assert parse_min_area(text) == pytest.approx(area)


@pytest.mark.parametrize("text", ["0", "-3", "101%", "0.5", "x"])
def test_an_invalid_area_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="not an area"):
        parse_min_area(text)


def test_rules_that_can_never_be_met_are_refused() -> None:
    region = parse_region("label=0,0,1,1:2")
    for wrong in ({"reject_after": (3, 2)}, {"min_pixels": -1}, {"min_share": 1.5}, {"regions": (region, region)}):
        with pytest.raises(DataError):
            Rule(**wrong)
