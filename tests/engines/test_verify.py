"""Verification finds what must not decide about parts, step by step."""

from pathlib import Path

import numpy as np
import pytest
from parts import rewrite_manifest

from lrdan_edge.backends.base import Backend, BackendSpec, Detections
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.data.images import Frame
from lrdan_edge.engines import golden
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.golden import check_against_graph, golden_scores
from lrdan_edge.engines.verify import verify_engine
from lrdan_edge.errors import EngineError, MissingStageError


class Fixed(Backend):
    """Gives the same scores, and heatmaps that are flat but for one pixel, whatever it is shown."""

    name = "fixed"

    def __init__(self, scores: list[float], peaks: list[float]) -> None:
        super().__init__(BackendSpec((32, 32, 1), (32, 32), 64, "CPU", "fp32"))
        self.scores = np.array(scores, np.float32)
        self.heatmaps = np.full((len(scores), 32, 32), -100, np.float32)
        self.heatmaps[:, 3, 4] = peaks

    def _infer(self, frames: Frame, heatmap: bool) -> Detections:  # noqa: ARG002
        return Detections(self.scores, self.heatmaps if heatmap else None)

    def _close(self) -> None:
        pass


def outcome(bundle: Bundle, name: str) -> dict[str, bool | None]:
    return {check.name: check.passed for check in verify_engine(bundle, name)}


@pytest.fixture
def name(own_bundle: Bundle) -> str:
    return build_engine(own_bundle, BuildRequest("int8", "onnxruntime"))


def test_a_valid_engine_passes_every_step(own_bundle: Bundle, name: str) -> None:
    checks = verify_engine(own_bundle, name)
    assert [check.name for check in checks] == ["files", "signature", "compatibility", "scores"]
    assert all(check.passed for check in checks)


@pytest.mark.parametrize("suffix", ["", ".json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_files_fail_and_nothing_is_loaded(own_bundle: Bundle, name: str, suffix: str, damage: str) -> None:
    path = own_bundle.path / "engines" / f"{name}{suffix}"
    data = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "truncate" else bytes([data[0] ^ 1]) + data[1:])
    checks = verify_engine(own_bundle, name)
    assert [check.passed for check in checks] == [False, None, None, None]
    assert "lrdan-edge build-engine --int8" in checks[0].said


def test_an_engine_replaced_with_its_manifest_entry_fails_the_signature(own_bundle: Bundle, name: str) -> None:
    other = own_bundle.path / "model.fp32.onnx"
    path = own_bundle.path / "engines" / name
    path.write_bytes(other.read_bytes())
    record = own_bundle.manifest.files["model.fp32.onnx"]
    rewrite_manifest(
        own_bundle.path,
        lambda manifest: manifest["files"][f"engines/{name}"].update(sha256=record.sha256, bytes=record.bytes),
    )
    (files, *_) = verify_engine(Bundle.open(own_bundle.path), name)
    assert files.passed is False
    assert "not the engine that its sidecar describes" in files.said


def test_an_engine_of_an_older_graph_is_not_compatible(own_bundle: Bundle, name: str) -> None:
    with own_bundle.stage("export", command="x") as stage:
        for graph in own_bundle.manifest.stages["export"].outputs:
            stage.path(graph).write_bytes((own_bundle.path / graph).read_bytes() + b"\n")
    assert outcome(own_bundle, name) == {"files": True, "signature": True, "compatibility": False, "scores": None}


def test_without_golden_frames_the_scores_are_not_verified(
    own_bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "GOLDEN", "elsewhere")
    assert outcome(own_bundle, name) == {"files": True, "signature": True, "compatibility": True, "scores": None}


def test_damaged_golden_frames_verify_nothing(own_bundle: Bundle, name: str) -> None:
    picture = next((own_bundle.path / "golden").glob("*.png"))
    picture.write_bytes(picture.read_bytes()[:-1])
    scores = verify_engine(own_bundle, name)[-1]
    assert scores.passed is False
    assert picture.name in scores.said


def test_drift_and_nan_scores_fail(own_bundle: Bundle) -> None:
    golden = golden_scores(own_bundle)
    scores, peaks = golden.scores["fp32"], golden.peaks["fp32"]
    assert check_against_graph(own_bundle, Fixed(scores, peaks), "fp32") < 1e-6
    with pytest.raises(EngineError, match="are not finite"):
        check_against_graph(own_bundle, Fixed([float("nan"), *scores[1:]], peaks), "fp32")
    with pytest.raises(EngineError, match="scores differ from the graph's by"):
        check_against_graph(own_bundle, Fixed([score * 1.01 for score in scores], peaks), "fp32")
    for wrong in ([peak * 1.01 for peak in peaks], [float("nan"), *peaks[1:]]):
        with pytest.raises(EngineError, match="largest values differ from the graph's by"):
            check_against_graph(own_bundle, Fixed(scores, wrong), "fp32")


def test_an_unknown_engine_is_named(own_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(MissingStageError, match="lrdan-edge build-engine"):
        verify_engine(own_bundle, str(tmp_path))
