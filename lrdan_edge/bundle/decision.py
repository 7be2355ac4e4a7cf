"""The decision: thresholds fitted on held-out good images (``decision.json``), and the golden frames (``golden/scores.json``)."""

from typing import Literal

import msgspec

ThresholdRule = Literal["conformal", "best-f1", "recall"]
THRESHOLD_RULES: tuple[ThresholdRule, ...] = ("conformal", "best-f1", "recall")


class GraphDecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The decision for one graph or engine, fitted on its own scores of held-out good images.

    Attributes:
        graph_sha256: The graph whose scores these are, or that the engine was built from.
        threshold: A part whose score exceeds it is rejected.
        false_reject_rate: The share of good parts rejected, in (0, 1): promised by the rule ``conformal``; by the others what
            the good images show, (rejected + 1) / (n + 1).
        n: How many held-out good images it stands on.
        good_scores: Those images' scores, ascending; a verdict's p-value is its rank among them.
        quantiles: Quantiles of the good scores by name (``p50``, ``p99``, …).
        rule: What set the threshold: good images alone (``conformal``), or labelled defects too (``best-f1``, ``recall``).
        good_images: The images' names, in the order of their scores.
        defect_scores: The labelled defects' scores, ascending; none where they had no part in the threshold.
        recall: The share of defective parts found: promised by the rule ``recall``, measured by ``best-f1``, else None.
        engine_sha256: The engine whose scores these are, or None for the graph's.
        pixel_threshold: The heatmap's value that its largest in a good image exceeds with a chance of at most the false-reject
            rate asked for, by the same rank as a conformal threshold's (the largest of n where n is too small for that); None
            where the score is the heatmap's largest value, so that `threshold` is it, or in bundles from before it was fitted.
        golden_scores: Golden-frame scores from the backend this was fitted on; empty where those in ``golden/scores.json``
            apply.
    """

    graph_sha256: str
    threshold: float
    false_reject_rate: float
    n: int
    good_scores: list[float]
    quantiles: dict[str, float]
    rule: ThresholdRule = "conformal"
    good_images: list[str] = []
    defect_scores: list[float] = []
    recall: float | None = None
    engine_sha256: str | None = None
    pixel_threshold: float | None = None
    golden_scores: list[float] = []


class Decision(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``decision.json``: one `GraphDecision` per graph, by precision."""

    schema_version: int
    graphs: dict[str, GraphDecision]


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``golden/scores.json``: a few good frames (PNG files beside it) and what each graph says of them, in the images' order.

    Attributes:
        schema_version: The manifest's.
        images: File names.
        scores: Per graph.
        peaks: Their heatmaps' largest values per graph, where those are not the scores.
    """

    schema_version: int
    images: list[str]
    scores: dict[str, list[float]]
    peaks: dict[str, list[float]] = {}
