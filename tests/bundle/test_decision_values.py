"""A stranger's decision is refused if no calibration can have made it: with it, every part might pass as good."""

import json
from pathlib import Path
from typing import Any

import pytest
from strangers import new_bundle

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.decision import GraphDecision
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.engines.golden import golden_scores
from lrdan_edge.errors import BundleError

DECISION = GraphDecision(
    graph_sha256="0" * 64,
    threshold=3.0,
    false_reject_rate=0.1,
    n=4,
    good_scores=[-1.0, 0.5, 2.0, 3.0],
    quantiles={"p50": 1.25},
    good_images=["a", "b", "c", "d"],
    pixel_threshold=9.0,
    golden_scores=[0.5],
    groups=2,
)


def bundle_with(folder: Path, name: str, text: bytes) -> Bundle:
    bundle = new_bundle(folder)
    with bundle.stage("calibrate", command="lrdan-edge calibrate") as stage:
        stage.path(name).write_bytes(text)
    return Bundle.open(folder)


def decided(folder: Path, **changes: Any) -> Bundle:
    fields = json.loads(to_json(DECISION)) | changes
    return bundle_with(folder, "decision.json", json.dumps({"schema_version": 1, "graphs": {"fp32": fields}}).encode())


STRANGE: list[dict[str, Any]] = [
    *({"good_scores": [0.0, 1.0, 3.0, value]} for value in (1e308, 1e39, float("inf"), float("nan"), 10**400, None, True, "3")),
    {"good_scores": [-1e308, 1.0, 2.0, 3.0]},
    *({"threshold": value} for value in (3.1, 1e308, float("inf"), float("-inf"), float("nan"), -1e308, None)),
    {"defect_scores": [1e308]},
    {"golden_scores": [float("inf")]},
    {"quantiles": {"p50": 1e308}},
    *({"pixel_threshold": value} for value in (1e308, float("nan"))),
    *({"false_reject_rate": value} for value in (-0.1, 1.1, 1e308)),
    *({"recall": value} for value in (-0.1, 1.1)),
    {"proven_false_reject_rate": 2.0},
    {"n": 0, "good_scores": [], "good_images": []},
    {"n": 5},
    {"n": -1},
    {"n": 4.5},
    {"good_images": ["a"]},
    {"good_scores": [0.5, -1.0, 2.0, 3.0]},
    {"defect_scores": [2.0, 1.0]},
    *({"groups": value} for value in (0, 5, -1)),
    {"folds": 0},
    {"rule": "none"},
    {"covers": "everything"},
]


@pytest.mark.parametrize("change", STRANGE, ids=str)
def test_a_decision_that_no_calibration_makes_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"decision\.json (is not valid|cannot be read) \(.*\): ") as refusal:
        decided(tmp_path, **change).decision()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"threshold": -5.0},
        {"threshold": 3.5, "rule": "recall", "recall": 0.9, "defect_scores": [1.0, 4.0]},
        {"recall": 0.0, "rule": "best-f1", "false_reject_rate": 1.0},
        {"groups": None, "pixel_threshold": None, "good_images": []},
        {"folds": 4, "rule": "cross-fitted", "proven_false_reject_rate": 0.3},
    ],
    ids=str,
)
def test_what_calibrations_make_is_read(tmp_path: Path, change: dict[str, Any]) -> None:
    assert decided(tmp_path, **change).decision().graphs["fp32"].n == 4


def test_an_engines_decision_is_checked_likewise(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path)
    fields = json.loads(to_json(DECISION)) | {"threshold": 1e30}
    with bundle.stage("decide e.onnx", command="lrdan-edge calibrate --decision-only") as stage:
        stage.path("engines/e.onnx.decision.json").write_bytes(json.dumps(fields).encode())
    with pytest.raises(BundleError, match=r"its threshold 1e\+30 is above every score that it was fitted on, 3 at most"):
        bundle.engine_decision("e.onnx")


@pytest.mark.parametrize(
    "change",
    [
        {"images": []},
        {"images": ["00.png"] * 65, "scores": {"fp32": [1.0] * 65}},
        {"scores": {"fp32": [1.0, 2.0]}},
        {"scores": {"fp32": [1e308]}},
        {"peaks": {"fp32": []}},
        {"peaks": {"fp32": [1e39]}},
    ],
    ids=str,
)
def test_golden_scores_are_checked(tmp_path: Path, change: dict[str, Any]) -> None:
    whole = {"schema_version": 1, "images": ["00.png"], "scores": {"fp32": [1.0]}}
    assert golden_scores(bundle_with(tmp_path / "good", "golden/scores.json", json.dumps(whole).encode())).images == ["00.png"]
    bundle = bundle_with(tmp_path / "b", "golden/scores.json", json.dumps(whole | change).encode())
    with pytest.raises(BundleError, match=r"golden/scores\.json is not valid \("):
        golden_scores(bundle)
