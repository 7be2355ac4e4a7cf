from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from parts import Line, defective_image, write
from scipy.stats import spearmanr

from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.spec import PRECISIONS
from lrdan_edge.calibration.calibrate import calibrate
from lrdan_edge.calibration.fidelity import LEAST_RANK_CORRELATION
from lrdan_edge.calibration.images import calibration_split, labelled_images
from lrdan_edge.calibration.methods import METHODS
from lrdan_edge.calibration.report import CalibrationReport
from lrdan_edge.engines.golden import golden_frames, golden_scores
from lrdan_edge.errors import CalibrationError, DataError
from lrdan_edge.metrics import Recall, recall_above


@pytest.fixture(scope="module")
def int8(line: Line) -> onnx.ModelProto:
    return onnx.load(Bundle.open(line.bundle).graph("int8"))


def test_every_quantiser_is_symmetric_int8_and_weights_are_per_channel(int8: onnx.ModelProto) -> None:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    quantisers = [node for node in int8.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert quantisers
    for node in quantisers:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    per_channel = [node for node in quantisers if constants[node.input[1]].ndim == 1 and constants[node.input[1]].size > 1]
    assert per_channel


def test_exactly_ae2_is_quantised_except_the_layers_in_the_manifest(int8: onnx.ModelProto, line: Line) -> None:
    kept = Bundle.open(line.bundle).manifest.stages["calibrate"].results["int8"]["kept_in_float"]
    made_by = {output: node for node in int8.graph.node for output in node.output}
    float_convolutions = []
    for node in int8.graph.node:
        if node.op_type == "Conv":
            rounded, integer = (
                made_by.get(name) is not None and made_by[name].op_type == "DequantizeLinear" for name in node.input[:2]
            )
            assert rounded or not integer, "a layer in float may see what a ReLU rounded, one in integers sees nothing else"
            if not integer:
                float_convolutions.append(node)
            elif len(node.input) > 2:
                bias = next(tensor for tensor in int8.graph.initializer if tensor.name == node.input[2])
                assert bias.data_type == TensorProto.FLOAT, "TensorRT refuses a dequantised int32 bias"
    smoothing = 2
    assert len(float_convolutions) == smoothing + len(kept)


def test_a_threshold_belongs_to_its_own_graph(line: Line) -> None:
    bundle = Bundle.open(line.bundle)
    frames, golden = golden_frames(bundle), golden_scores(bundle)
    for precision in PRECISIONS:
        decision = bundle.decision().graphs[precision]
        assert decision.graph_sha256 == bundle.manifest.files[f"model.{precision}.onnx"].sha256
        assert decision.n == 60
        assert decision.good_scores == sorted(decision.good_scores)
        assert sum(score > decision.threshold for score in decision.good_scores) <= 0.02 * decision.n
        with OnnxRuntimeBackend(bundle.graph(precision).read_bytes(), precision) as backend:
            found = backend.infer(frames)
        assert found.heatmap is not None
        assert np.allclose(found.score, golden.scores[precision], rtol=1e-5)
        assert np.allclose(found.heatmap.max((1, 2)), golden.peaks[precision], rtol=1e-5)


def test_the_report_shows_what_was_tried_and_the_bounds_hold(line: Line) -> None:
    bundle = Bundle.open(line.bundle)
    report = msgspec.json.decode((bundle.path / "reports/calibration.json").read_bytes(), type=CalibrationReport)
    assert report.chosen in report.trials
    assert not report.chosen.broken
    assert report.recalls == {}, "no labelled defects"
    assert {trial.method for trial in report.trials} == set(METHODS)
    assert report.chosen.fidelity.rank_correlation >= LEAST_RANK_CORRELATION
    assert len(report.scores["fp32"]) == len(report.scores["int8"]) == report.images["comparing"]
    correlation = spearmanr(report.scores["fp32"], report.scores["int8"]).statistic
    assert report.chosen.fidelity.rank_correlation == pytest.approx(correlation)
    assert "No labelled image" in (bundle.path / "reports/calibration.md").read_text()
    for name in ("calibration-layers.png", "calibration-scores.png"):
        picture = cv2.imread(str(bundle.path / "reports" / name))
        assert picture is not None
        assert picture.std() > 10


def test_no_image_serves_two_purposes(line: Line) -> None:
    split = calibration_split(Bundle.open(line.bundle))
    parts = [set(split.ranges), set(split.compared), set(split.held_out)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_labelled_defects_bound_the_int8_auroc_and_the_report_says_so(own_bundle: Bundle, line: Line) -> None:
    decision = calibrate(own_bundle, false_reject_rate=0.05, defects=line.data, rule="recall", recall=0.9)
    results = own_bundle.manifest.stages["calibrate"].results["int8"]
    assert results["labelled"]
    assert abs(results["auroc"] - results["auroc_fp32"]) <= 0.005
    for graph in decision.graphs.values():
        assert graph.rule == "recall"
        assert graph.false_reject_rate <= 0.05
        assert len(graph.defect_scores) == 20
        assert sum(score > graph.threshold for score in graph.defect_scores) / 20 >= 0.9
    said = (own_bundle.path / "reports/calibration.md").read_text()
    assert "20 labelled defects were used for the choice of the int8 graph and the threshold" in said
    recalls = own_bundle.manifest.stages["calibrate"].results["recall"]
    report = msgspec.json.decode((own_bundle.path / "reports/calibration.json").read_bytes(), type=CalibrationReport)
    for precision, graph in decision.graphs.items():
        expected = recall_above(graph.defect_scores, graph.threshold)
        assert Recall(**recalls[precision]) == report.recalls[precision] == expected
        assert f"| {precision} | {graph.threshold:.6g} | {expected.in_words()} |" in said
    int8, fp32 = report.chosen.fidelity.recall, report.chosen.fidelity.recall_fp32
    assert int8 is not None
    assert fp32 is not None
    assert f"| {int8.in_short()} | {fp32.in_short()} |" in said
    assert "| recall at 5.00% false rejects, int8 | recall at 5.00% false rejects, fp32 |" in said


def test_masks_beside_the_defects_are_not_read_as_defects(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(3):
        image, mask = defective_image(rng)
        write(tmp_path / "blob" / f"{index}.png", image)
        write(tmp_path / "masks" / "blob" / f"{index}.png", mask)
    assert [path.parent.name for path in labelled_images(tmp_path)[0]] == ["blob"] * 3


def test_without_int8_no_training_image_is_needed(own_bundle: Bundle, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(own_bundle.manifest.stages["train"].results, "data", "/nowhere")
    decision = calibrate(own_bundle, false_reject_rate=0.05, good=line.data / "test" / "good", int8=False)
    assert decision.graphs["fp32"].n == 20


def test_int8_can_be_left_out(own_bundle: Bundle) -> None:
    decision = calibrate(own_bundle, int8=False)
    assert set(decision.graphs) == {"fp32", "fp16"}
    assert "model.int8.onnx" not in own_bundle.manifest.files


def test_too_few_held_out_images_leave_the_bundle_alone(own_bundle: Bundle) -> None:
    before = (own_bundle.path / "manifest.json").read_bytes()
    with pytest.raises(CalibrationError, match="needs 999"):
        calibrate(own_bundle, false_reject_rate=0.001)
    assert (own_bundle.path / "manifest.json").read_bytes() == before


def test_a_rate_that_nobody_asked_for_is_the_lowest_that_the_images_can_promise(own_bundle: Bundle, line: Line) -> None:
    good = line.data / "test" / "good"  # 20 images
    decision = calibrate(own_bundle, good=good, int8=False)
    assert decision.graphs["fp32"].false_reject_rate == 0.048
    record = own_bundle.manifest.stages["calibrate"]
    assert record.results["notes"] == [
        "20 good images can promise a false-reject rate of 4.8% at best, so this rate was chosen; 2.0% needs 49 images"
    ]
    assert "--false-reject-rate 0.048" in record.command
    with pytest.raises(CalibrationError, match=r"20 held-out good images cannot promise a false-reject rate of 0\.02"):
        calibrate(own_bundle, good=good, int8=False, false_reject_rate=0.02)


def test_missing_images_are_named(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(own_bundle.manifest.stages["train"].results, "data", "/nowhere")
    with pytest.raises(DataError, match=r"are missing .* give others with good"):
        calibrate(own_bundle)


def test_other_good_images_set_the_threshold(own_bundle: Bundle, line: Line) -> None:
    decision = calibrate(own_bundle, false_reject_rate=0.05, good=Path(line.data / "test" / "good"))
    assert {graph.n for graph in decision.graphs.values()} == {20}
