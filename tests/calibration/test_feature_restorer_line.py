"""The default recipe's network through the whole line: the same scores from PyTorch and every graph, int8 included."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from made_once import made_once
from parts import Line

from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.backends.openvino import OpenVinoBackend
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.names import RECONSTRUCTION
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.calibration.quantise import load_quantisable
from lrdan_edge.calibration.unsigned import with_unsigned_activations
from lrdan_edge.data.images import list_images, load_frames
from lrdan_edge.metrics import auroc
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.rule_filter import pixel_threshold

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def restorer(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from lrdan_edge.calibration.calibrate import calibrate
    from lrdan_edge.export.graph import export
    from lrdan_edge.train.progress import Progress
    from lrdan_edge.train.trainer import TrainOptions, train

    def make(folder: Path) -> None:
        bundle = train(line.data, folder / "bundle", TrainOptions(image_size=(64, 64), epochs=8), Progress())
        export(bundle)
        calibrate(bundle, methods=("min-max", "percentile-99.99"))

    return Bundle.open(made_once(tmp_path_factory, "feature-restorer", make) / "bundle")


def frames_of(bundle: Bundle, folder: Path) -> npt.NDArray[np.uint8]:
    return load_frames(list_images(folder), bundle.manifest.model.frame_shape)


def scores(bundle: Bundle, precision: Precision, folder: Path) -> npt.NDArray[Any]:
    with OnnxRuntimeBackend(bundle.graph(precision).read_bytes(), precision) as backend:
        return backend.infer(frames_of(bundle, folder), heatmap=False).score


def test_every_graph_finds_the_defects_as_the_network_does(restorer: Bundle, line: Line) -> None:
    assert restorer.manifest.model.recipe == "feature-restoration"
    results = restorer.manifest.stages["export"].results
    assert results["fp32"]["largest_relative_score_difference"] <= 1e-4
    assert results["fp16"]["float32_convolutions"] in (3, 34)  # the usual ones, or the backbone's 33 and the last one
    assert results["fp16"]["largest_relative_score_difference"] <= 5e-3
    good, bad = ({p: scores(restorer, p, line.data / "test" / kind) for p in ("fp32", "int8")} for kind in ("good", "blob"))
    areas = {p: auroc(good[p], bad[p]) for p in good}
    assert areas["fp32"] > 0.95
    assert areas["int8"] == pytest.approx(areas["fp32"], abs=0.02)


def test_a_backbone_in_float32_halves_the_other_convolutions(restorer: Bundle) -> None:
    from lrdan_edge.export.graph import prepare
    from lrdan_edge.model.deployed import load_network

    whole, module = load_network(restorer), load_network(restorer)
    prepare(whole, "fp32")
    prepare(module, "fp16", 1000)
    weights = {name: tensor for name, tensor in module.network.named_parameters() if name.endswith("weight")}
    single = {name for name, tensor in weights.items() if tensor.dtype == torch.float32}
    assert single == {name for name in weights if name.startswith("backbone.")} | {"decoder.head.layer.weight"}
    kept = {
        name.replace(".part.", "."): tensor for name, tensor in module.network.named_parameters()
    }  # wrapped to stay in float32
    for name, tensor in whole.network.get_submodule("backbone").named_parameters():
        assert torch.equal(kept[f"backbone.{name}"], tensor), "rounded to half precision and back"


def test_ae2_and_the_decoder_are_quantised_and_their_outputs_stay_in_float(restorer: Bundle) -> None:
    graph = onnx.load(restorer.graph("int8")).graph
    kept = restorer.manifest.stages["calibrate"].results["int8"]["kept_in_float"]
    heads = ("ae2.fine", "ae2.middle", "ae2.coarse", "decoder.head")
    assert not {*heads} & {*kept}
    convolutions = {node.input[1]: node for node in graph.node if node.op_type == "Conv"}
    assert len(convolutions) == 51
    assert sum(name.endswith("weight_dequantised") for name in convolutions) == 51 - len(kept)
    rounded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    for name in heads:
        assert convolutions[f"network.{name}.weight_dequantised"].output[0] not in rounded


def test_kernels_compute_what_the_int8_graph_says(restorer: Bundle, line: Line) -> None:
    """Features are standardised in float between two rounded tensors; OpenVINO rounds a few of them, midway between steps, otherwise."""
    pytest.importorskip("openvino")
    frames = frames_of(restorer, line.data / "test" / "blob")[:8]
    whole = load_quantisable(restorer.graph("fp32"))
    names = whole.tensors()
    seen = run(whole.with_outputs(names), names, frames)
    signed = whole.quantise({name: float(np.abs(value).max()) for name, value in zip(names, seen, strict=True)})
    (expected,) = run(signed.SerializeToString(), ["heatmap"], frames)
    unsigned = with_unsigned_activations(signed).SerializeToString()
    for backend, bound in ((OnnxRuntimeBackend(unsigned, "int8"), 1e-4), (OpenVinoBackend(unsigned, "int8"), 0.05)):
        with backend:
            heatmap = backend.infer(frames).heatmap
        assert heatmap is not None
        assert np.abs(heatmap - expected).max() <= bound * np.std(expected), backend.name


def run(model: bytes, outputs: list[str], frames: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """ONNX Runtime's outputs, every node as the graph has it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(outputs, {"frames": frames}))


def test_the_scores_threshold_applies_to_pixels(restorer: Bundle, line: Line) -> None:
    with Inspector.open(restorer, backend="onnxruntime", precision="fp32") as inspector:
        assert pixel_threshold(inspector) == pytest.approx(restorer.decision().graphs["fp32"].threshold)
        verdicts = inspector.inspect(frames_of(restorer, line.data / "test" / "blob"))
    for one in verdicts:
        assert one.heatmap is not None
        assert one.score == pytest.approx(float(one.heatmap.max()))


def test_the_explanation_shows_no_reconstruction(restorer: Bundle, line: Line, tmp_path: Path) -> None:
    from lrdan_edge.runtime.explain import explain

    assert not (restorer.path / RECONSTRUCTION).exists()
    shutil.copytree(restorer.path, tmp_path / "bundle")
    images = list_images(line.data / "test" / "blob")[:1]
    page = explain(Bundle.open(tmp_path / "bundle"), images, tmp_path / "page.html", precision="fp32")
    assert page.rejected == 1
    text = page.path.read_text("utf-8")
    assert "Heatmap" in text
    assert "Reconstruction" not in text
