"""A restorer through the whole line: the same scores from PyTorch and every graph, int8 included."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from made_once import made_once
from parts import Line

from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.data.images import list_images, load_frames
from lrdan_edge.export.parity import Parity
from lrdan_edge.metrics import auroc
from lrdan_edge.runtime.annotate import overlay_maximum
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.rule_filter import pixel_threshold

pytest.importorskip("torch")
import torch


@pytest.fixture(scope="module")
def restorer(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from lrdan_edge.calibration.calibrate import calibrate
    from lrdan_edge.export.graph import export
    from lrdan_edge.train.progress import Progress
    from lrdan_edge.train.trainer import TrainOptions, train

    def make(folder: Path) -> None:
        options = TrainOptions(recipe="restoration", image_size=(64, 64), epochs=8)
        bundle = train(line.data, folder / "bundle", options, Progress())
        export(bundle)
        calibrate(bundle, methods=("min-max", "painted-min-max"))

    return Bundle.open(made_once(tmp_path_factory, "restorer", make) / "bundle")


def scores(bundle: Bundle, precision: Precision, folder: Path) -> npt.NDArray[Any]:
    frames = load_frames(list_images(folder), bundle.manifest.model.frame_shape)
    with OnnxRuntimeBackend(bundle.graph(precision).read_bytes(), precision) as backend:
        return backend.infer(frames, heatmap=False).score


def test_every_graph_scores_as_the_network_does(restorer: Bundle, line: Line) -> None:
    good, bad = ({p: scores(restorer, p, line.data / "test" / kind) for p in ("fp32", "int8")} for kind in ("good", "blob"))
    stage = restorer.manifest.stages["export"]
    assert stage.results["fp32"]["largest_relative_score_difference"] <= 1e-4
    areas = {p: auroc(good[p], bad[p]) for p in good}
    assert areas["fp32"] > 0.9
    assert areas["int8"] == pytest.approx(areas["fp32"], abs=0.02)


def test_defective_pixels_are_restored_and_the_rest_is_kept(restorer: Bundle, line: Line) -> None:
    """Held against the good images themselves, which defects never seen in training were painted into."""
    from lrdan_edge.model.deployed import load_network, standardisation
    from lrdan_edge.model.networks import Restorer
    from lrdan_edge.train.learner import LearnerOptions
    from lrdan_edge.train.recipes.restoration.hyperparameters import RestorationHyperparameters
    from lrdan_edge.train.recipes.restoration.restoration import RestorationLearner

    network = load_network(restorer).network
    assert isinstance(network, Restorer)
    good = load_frames(list_images(line.data / "test" / "good"), restorer.manifest.model.frame_shape)
    images = torch.from_numpy(good).permute(0, 3, 1, 2)
    x, defective, mask = RestorationLearner(network, RestorationHyperparameters(), LearnerOptions(seed=99)).prepare(
        images, step=0
    )
    mean, deviation = standardisation(defective)
    with torch.inference_mode():
        restored = network((defective - mean) / deviation)[0] * deviation + mean

    def error(image: torch.Tensor, where: torch.Tensor) -> float:
        return float(((image - x).abs() * where).sum() / where.sum())

    assert error(restored, mask) < 0.8 * error(defective, mask)
    assert error(restored, 1 - mask) < error(defective, 1 - mask) + 0.02


def test_the_pixel_threshold_is_separate_and_sets_the_overlay(restorer: Bundle, line: Line) -> None:
    """What is nearby lifts the heatmap alone, so the score's threshold says nothing about pixels."""
    frames = load_frames(list_images(line.data / "test" / "blob"), restorer.manifest.model.frame_shape)
    decided = restorer.decision().graphs["fp32"]
    with Inspector.open(restorer, backend="onnxruntime", precision="fp32") as inspector:
        verdicts = inspector.inspect(frames)
        assert pixel_threshold(inspector) == decided.pixel_threshold
    lifts = [float(np.max(one.heatmap)) - one.score for one in verdicts if one.heatmap is not None and one.score is not None]
    assert min(lifts) > -1e-4
    assert max(lifts) > 0.01
    assert decided.pixel_threshold is not None
    assert decided.pixel_threshold >= decided.threshold - 1e-4
    for one in verdicts:
        assert one.heatmap is not None
        top = float(one.heatmap.max())
        assert overlay_maximum(one) == (
            min(decided.pixel_threshold, top) if one.outcome == "reject" else decided.pixel_threshold
        )


@pytest.mark.slow
def test_fp16_keeps_more_layers_in_float32_if_its_bound_would_break(
    restorer: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewer_exports import SCORING, export_as_before

    from lrdan_edge.export import graph as exporting
    from lrdan_edge.export import reference

    assert restorer.manifest.stages["export"].results["fp16"]["float32_convolutions"] == 3
    shutil.copytree(restorer.path, tmp_path / "bundle")
    measure, tried = reference.measure, list[str]()
    export_anew = exporting.to_onnx
    export_as_before(restorer, monkeypatch)
    export_stored = exporting.to_onnx

    def to_onnx(module: Any, frames: Any, outputs: tuple[str, ...] = SCORING) -> onnx.ModelProto:
        again = tried.count("fp16") == 1 and outputs == SCORING
        return (export_anew if again else export_stored)(module, frames, outputs)

    def measured(precision: Precision, *rest: Any) -> tuple[list[Parity], list[str]]:
        rows, missing = measure(precision, *rest)
        tried.append(precision)
        too_far = tried.count("fp16") == 1 and precision == "fp16"
        return [msgspec.structs.replace(row, score_max=1.0) if too_far else row for row in rows], missing

    monkeypatch.setattr(exporting, "measure", measured)
    monkeypatch.setattr(exporting, "to_onnx", to_onnx)
    bundle = Bundle.open(tmp_path / "bundle")
    exporting.export(bundle)
    assert tried == ["fp32", "fp16", "fp16"]
    bundle = Bundle.open(bundle.path)
    found = bundle.manifest.stages["export"].results["fp16"]
    graph = onnx.load(bundle.graph("fp16")).graph
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    whole = [one for one in graph.initializer if one.name in weights and one.data_type == onnx.TensorProto.FLOAT]
    assert found["float32_convolutions"] == len(whole) > 3


def test_the_graph_holds_no_batch_norm_and_its_convolutions_are_quantised(restorer: Bundle) -> None:
    operators = [node.op_type for node in onnx.load(restorer.graph("int8")).graph.node]
    assert "BatchNormalization" not in operators
    from specs import spec_for

    from lrdan_edge.model.networks import Restorer

    layers = Restorer(spec_for(64, 64, 1, recipe="restoration")).modules()
    convolutions = sum(isinstance(layer, torch.nn.Conv2d) for layer in layers)
    assert operators.count("Conv") == convolutions
    assert operators.count("DequantizeLinear") >= 2 * convolutions
