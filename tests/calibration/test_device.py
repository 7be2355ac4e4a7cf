"""The decision on the device, for graphs and engines."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from parts import Line

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.calibration import device
from lrdan_edge.calibration.calibrate import calibrate
from lrdan_edge.calibration.decision import ThresholdTarget
from lrdan_edge.calibration.device import fit_thresholds
from lrdan_edge.cli.main import cli
from lrdan_edge.data.images import list_images, load_frames
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.open import engine, open_engine
from lrdan_edge.errors import CalibrationError, DataError
from lrdan_edge.runtime.inspector import Inspector


@pytest.fixture
def engine_name(own_bundle: Bundle) -> str:
    return build_engine(own_bundle, BuildRequest("int8", "onnxruntime"))


def test_an_engine_is_judged_by_its_own_scores(own_line: Line, own_bundle: Bundle, engine_name: str) -> None:
    good = own_line.data / "test" / "good"
    decided = fit_thresholds(own_bundle, ThresholdTarget(false_reject_rate=0.1), good=good)
    assert set(decided.engines) == {engine_name}
    assert not decided.skipped
    own = decided.engines[engine_name]
    assert own.engine_sha256 == own_bundle.manifest.files[f"engines/{engine_name}"].sha256
    frames = load_frames(list_images(good), own_bundle.manifest.model.frame_shape)
    with open_engine(own_bundle, engine(own_bundle, engine_name)) as backend:
        scores = np.sort(backend.infer(frames).score)
    assert own.good_scores == pytest.approx(scores.tolist())
    assert own.threshold == pytest.approx(scores[18])  # the ⌈21 × 0.9⌉ = 19th smallest of 20
    reopened = Bundle.open(own_bundle.path)
    assert reopened.decision().graphs["int8"].n == 20
    with Inspector.open(reopened, backend="onnxruntime", precision="int8") as inspector:
        assert inspector.thresholder.threshold == own.threshold


def test_the_decision_of_a_rebuilt_engine_no_longer_counts(own_bundle: Bundle, engine_name: str) -> None:
    fit_thresholds(own_bundle, ThresholdTarget())
    path = own_bundle.path / "engines" / engine_name
    other = own_bundle.manifest.files[f"engines/{engine_name}"].sha256[::-1]
    assert Bundle.open(own_bundle.path).engine_decision(engine_name) is not None
    changed = Bundle.open(own_bundle.path)
    record = changed.manifest.files[f"engines/{engine_name}"]
    changed.manifest.files[f"engines/{engine_name}"] = type(record)(other, path.stat().st_size)
    assert changed.engine_decision(engine_name) is None


def test_calibrating_again_replaces_the_graphs_decisions(own_bundle: Bundle) -> None:
    fit_thresholds(own_bundle, ThresholdTarget(false_reject_rate=0.1))
    assert "decide" in own_bundle.manifest.stages
    calibrate(own_bundle, int8=False)
    assert "decide" not in own_bundle.manifest.stages
    assert own_bundle.decision().graphs["fp32"].false_reject_rate == 0.02
    assert not any(own_bundle.staleness(stage) for stage in own_bundle.manifest.stages)


def test_an_engines_threshold_does_not_outlive_the_next_calibration(own_bundle: Bundle) -> None:
    """It used to: calibrated anew for 2 % false rejects, `run` went on with the engine's old 30 %."""
    name = build_engine(own_bundle, BuildRequest("fp32", "onnxruntime"))
    fit_thresholds(own_bundle, ThresholdTarget(false_reject_rate=0.3))
    assert own_bundle.engine_decision(name) is not None
    calibrate(own_bundle, int8=False)
    assert own_bundle.engine_decision(name) is None
    with Inspector.open(own_bundle, backend="onnxruntime", precision="fp32") as inspector:
        assert inspector.thresholder.decision.false_reject_rate == 0.02


@pytest.mark.usefixtures("engine_name")
def test_a_target_that_one_engine_cannot_reach_changes_no_threshold(
    own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_thresholds(own_bundle, ThresholdTarget(false_reject_rate=0.1))
    before = (own_bundle.path / "manifest.json").read_bytes()

    def refused(*_: object) -> None:
        raise CalibrationError("not by this engine")

    monkeypatch.setattr(device, "open_engine", refused)
    with pytest.raises(CalibrationError, match="not by this engine"):
        fit_thresholds(own_bundle, ThresholdTarget(false_reject_rate=0.05))
    assert (own_bundle.path / "manifest.json").read_bytes() == before


def test_only_good_images_that_were_not_trained_on_set_a_threshold(own_line: Line, own_bundle: Bundle) -> None:
    with pytest.raises(DataError, match=r"has a folder 'train'.* good"):
        fit_thresholds(own_bundle, ThresholdTarget(), good=own_line.data)
    with pytest.raises(DataError, match=r"images in .* were trained on"):
        calibrate(own_bundle, good=own_line.data / "train" / "good")


def test_fitting_again_keeps_the_previous_target(own_line: Line) -> None:
    """It used to fall back to the defaults, and a line calibrated for 10 % false rejects was held to 2 % without a word."""

    def decided(*arguments: str) -> tuple[str, float, float | None]:
        result = CliRunner().invoke(cli, ["calibrate", *arguments, "--bundle", str(own_line.bundle)])
        assert result.exit_code == 0, result.output
        graph = Bundle.open(own_line.bundle).decision().graphs["fp32"]
        return graph.rule, graph.false_reject_rate, graph.recall

    assert decided("--no-int8", "--false-reject-rate", "0.1") == ("conformal", 0.1, None)
    assert decided("--decision-only") == ("conformal", 0.1, None)
    assert decided("--decision-only", "--false-reject-rate", "0.05") == ("conformal", 0.05, None)
    assert decided("--decision-only") == ("conformal", 0.05, None)
    defects = ["--defects", str(own_line.data)]
    assert decided("--decision-only", "--threshold-from", "recall", "--recall", "0.8", *defects)[::2] == ("recall", 0.8)
    result = CliRunner().invoke(cli, ["calibrate", "--decision-only", "--bundle", str(own_line.bundle)])
    assert result.exit_code == 1
    assert "give their folder with --defects" in result.output
    assert decided("--decision-only", *defects)[::2] == ("recall", 0.8)


def test_fitting_needs_neither_onnx_nor_torch(own_bundle: Bundle, engine_name: str) -> None:
    code = (
        "import sys\n"
        "class Barred:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('onnx', 'torch', 'matplotlib', 'scipy', 'sklearn'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Barred())\n"
        "from lrdan_edge.cli.main import cli\n"
        f"cli(['calibrate', '--decision-only', '--bundle', {str(own_bundle.path)!r}])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"engine {engine_name}: threshold" in result.stdout


def test_too_few_images_leave_the_bundle_alone(own_bundle: Bundle) -> None:
    before = (own_bundle.path / "manifest.json").read_bytes()
    with pytest.raises(CalibrationError, match="needs 999"):
        fit_thresholds(own_bundle, ThresholdTarget(false_reject_rate=0.001))
    assert (own_bundle.path / "manifest.json").read_bytes() == before


def show(bundle: Path) -> str:
    result = CliRunner().invoke(cli, ["calibrate", "--show", "--bundle", str(bundle)])
    assert result.exit_code == 0, result.output
    return result.output


def test_show_explains_the_decision_in_words(own_bundle: Bundle, engine_name: str) -> None:
    said = show(own_bundle.path)
    decision = own_bundle.decision().graphs["int8"]
    assert f"exceeds {decision.threshold:.6g}" in said
    assert f"score 60 of these 60, ascending ({decision.good_images[-1]})" in said
    assert "(n + 1) x (1 - 0.02) = 59.78, rounded up" in said
    assert "<- threshold" in said
    assert "p-value" in said
    assert f"engine {engine_name}: judged by its graph's threshold" in said


def test_show_explains_the_use_of_labelled_defects(own_line: Line) -> None:
    arguments = ["--decision-only", "--defects", str(own_line.data), "--threshold-from", "recall", "--recall", "0.9"]
    result = CliRunner().invoke(cli, ["calibrate", *arguments, "--bundle", str(own_line.bundle)])
    assert result.exit_code == 0, result.output
    assert "finds at least 0.9 of such defects" in result.output
    said = show(own_line.bundle)
    assert "just below score 2 of 20 labelled defects" in said
    assert "░ defective" in said


def test_pixel_thresholds_are_fitted_where_the_score_is_not_the_heatmaps_largest_value(
    own_line: Line, own_bundle: Bundle
) -> None:
    assert own_bundle.manifest.scoring.pooling == "rms"
    frames = load_frames(list_images(own_line.data / "calibration" / "good"), own_bundle.manifest.model.frame_shape)
    with Inspector.open(own_bundle, backend="onnxruntime", precision="fp32") as inspector:
        peaks = np.sort([float(np.max(heatmap)) for heatmap in inspector.inspect(frames).heatmaps if heatmap is not None])
    calibrated = own_bundle.decision().graphs["fp32"].pixel_threshold
    assert calibrated == pytest.approx(peaks[60 - 1], rel=1e-5), "the 60th of 60: ceil(61 * 0.98)"
    assert fit_thresholds(own_bundle, ThresholdTarget()).graphs["fp32"].pixel_threshold == pytest.approx(calibrated)
