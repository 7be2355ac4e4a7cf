"""What is about to decide is held to what its threshold was fitted on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from parts import Line, rewrite_manifest

from lrdan_edge import Bundle, Inspector
from lrdan_edge.backends.base import Detections
from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.bench.latency import bench
from lrdan_edge.bundle.engine_sidecar import EngineTarget
from lrdan_edge.bundle.files import sha256_of
from lrdan_edge.calibration.decision import ThresholdTarget
from lrdan_edge.calibration.device import fit_thresholds
from lrdan_edge.cli.main import cli
from lrdan_edge.data.images import Frame
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.golden import LARGEST_SHIFT, check_against_threshold, golden_scores
from lrdan_edge.errors import BundleError, DriftError
from lrdan_edge.evaluation.evaluate import evaluate

Change = Callable[[Path, float], None]


def shift_golden(bundle: Path, deviations: float) -> None:
    """As if the golden frames had been scored by other kernels: all int8 scores higher by so many deviations of the good scores."""
    path = bundle / "golden" / "scores.json"
    fields = json.loads(path.read_text())
    spread = float(np.std(Bundle.open(bundle).decision().graphs["int8"].good_scores))
    fields["scores"]["int8"] = [score + deviations * spread for score in fields["scores"]["int8"]]
    path.write_text(json.dumps(fields))
    digest, size = sha256_of(path), path.stat().st_size
    rewrite_manifest(bundle, lambda manifest: manifest["files"]["golden/scores.json"].update(sha256=digest, bytes=size))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("engine", [False, True], ids=["graph", "engine"])
def test_what_scores_otherwise_than_its_threshold_was_fitted_on_does_not_decide(
    own_bundle: Bundle, backend: EngineTarget, engine: bool
) -> None:
    """A bundle calibrated with VNNI and run without it decided by a threshold that was not its scores'."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    if engine:
        build_engine(own_bundle, BuildRequest("int8", backend))
    shift_golden(own_bundle.path, 0.2 * LARGEST_SHIFT)
    with Inspector.open(own_bundle.path, backend=backend, precision="int8") as inspector:
        assert inspector.choice.precision == "int8"
    shift_golden(own_bundle.path, 2 * LARGEST_SHIFT)
    with pytest.raises(
        DriftError, match=f"{backend} int8.* does not reproduce the golden scores.*calibrate --decision-only --bundle"
    ):
        Inspector.open(own_bundle.path, backend=backend, precision="int8")
    Inspector.open(own_bundle.path, backend=backend, precision="fp32").close()


def test_no_command_continues_with_a_drifted_backend(own_line: Line) -> None:
    bundle, data = own_line.bundle, own_line.data
    shift_golden(bundle, 1.0)
    on_onnxruntime = ["--backend", "onnxruntime"]
    for command in (
        ["run", str(data / "test"), *on_onnxruntime],
        ["evaluate", str(data), *on_onnxruntime],
        ["explain", str(data / "test" / "good" / "0.png")],
    ):
        words = [*command, "--bundle", str(bundle), "--int8"]
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 1, command
        assert "does not reproduce the golden scores" in result.output
        assert len(result.output.strip().splitlines()) == 1
    with pytest.raises(DriftError):
        evaluate(Bundle.open(bundle), data, backend="onnxruntime", precision="int8")
    report = bench(Bundle.open(bundle), batches=(1,), seconds=1.0, rounds=3)
    assert any("onnxruntime int8 (graph): " in reason and "does not reproduce" in reason for reason in report.not_measured)
    assert not any("int8" in entry.title for entry in report.entries)


def test_fitting_the_threshold_on_this_device_fixes_drift(own_bundle: Bundle) -> None:
    name = build_engine(own_bundle, BuildRequest("int8", "onnxruntime"))
    shift_golden(own_bundle.path, 1.0)
    bundle = Bundle.open(own_bundle.path)
    with pytest.raises(DriftError):
        Inspector.open(bundle, backend="onnxruntime", precision="int8")
    fit_thresholds(bundle, ThresholdTarget(false_reject_rate=0.1))
    with Inspector.open(bundle, backend="onnxruntime", precision="int8") as inspector:
        assert inspector.choice.engine == name
    own = bundle.engine_decision(name)
    assert own is not None
    assert len(own.golden_scores) == len(golden_scores(bundle).images)
    assert np.abs(np.array(own.golden_scores) - golden_scores(bundle).scores["int8"]).max() > 0.5 * np.std(own.good_scores)
    assert bundle.decision().graphs["int8"].golden_scores


def test_a_score_that_is_no_number_proves_nothing(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    decision = own_bundle.decision().graphs["fp32"]
    with OnnxRuntimeBackend(own_bundle.graph("fp32").read_bytes(), "fp32") as backend:
        check_against_threshold(own_bundle, backend, decision, "onnxruntime fp32", "")
        infer = backend.infer

        def no_number(frames: Frame, **given: Any) -> Detections:
            return infer(frames, **given)._replace(score=np.full(len(frames), np.nan, np.float32))

        monkeypatch.setattr(backend, "infer", no_number)
        with pytest.raises(DriftError, match="difference nan"):
            check_against_threshold(own_bundle, backend, decision, "onnxruntime fp32", "")


def test_a_refused_backend_is_closed(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    def close(self: OnnxRuntimeBackend) -> None:
        closed.append(self.name)

    monkeypatch.setattr(OnnxRuntimeBackend, "_close", close)
    shift_golden(own_bundle.path, 1.0)
    with pytest.raises(DriftError):
        Inspector.open(own_bundle.path, backend="onnxruntime", precision="int8")
    assert closed == ["onnxruntime"]


def test_a_bundle_copied_without_its_golden_frames_is_refused(own_bundle: Bundle) -> None:
    shutil.rmtree(own_bundle.path / "golden")
    result = CliRunner().invoke(cli, ["run", "nowhere", "--bundle", str(own_bundle.path)])
    assert result.exit_code == 1
    assert "golden" in result.output
    assert "lrdan-edge calibrate" in result.output


@pytest.mark.parametrize("change", [{"images": []}, {"scores": {}}, {"scores": {"fp32": []}}, {"scores": {"fp32": [1.0]}}])
def test_incomplete_golden_scores_are_one_clear_error(own_bundle: Bundle, change: dict[str, object]) -> None:
    path = own_bundle.path / "golden" / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    digest, size = sha256_of(path), path.stat().st_size
    rewrite_manifest(own_bundle.path, lambda fields: fields["files"]["golden/scores.json"].update(sha256=digest, bytes=size))
    with pytest.raises(BundleError, match=r"fp32 scores for \d golden frames.*lrdan-edge calibrate"):
        Inspector.open(own_bundle.path, backend="onnxruntime", precision="fp32")


def test_one_outlier_does_not_loosen_the_bound(own_bundle: Bundle) -> None:
    decision = own_bundle.decision().graphs["fp32"]
    spread = float(np.std(decision.good_scores))
    outlier = msgspec.structs.replace(decision, good_scores=[*decision.good_scores, 1000 * spread])
    with OnnxRuntimeBackend(own_bundle.graph("fp32").read_bytes(), "fp32") as backend:
        check_against_threshold(own_bundle, backend, outlier, "onnxruntime fp32", "")
        shifted = [score + spread for score in golden_scores(own_bundle).scores["fp32"]]
        with pytest.raises(DriftError):
            check_against_threshold(
                own_bundle, backend, msgspec.structs.replace(outlier, golden_scores=shifted), "onnxruntime fp32", ""
            )
