from collections import Counter
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, shape_inference
from parts import Line

from lrdan_edge.bundle import Bundle
from lrdan_edge.export.graph import OPSET, fold_batch_norm
from lrdan_edge.images import list_images, load_frames
from lrdan_edge.manifest import PRECISIONS, Precision

ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Max", "Min", "Conv"}


@pytest.fixture(params=PRECISIONS)
def graph(request: pytest.FixtureRequest, line: Line) -> tuple[Precision, onnx.ModelProto]:
    return request.param, onnx.load(Bundle.open(line.bundle).graph(request.param))


def test_inputs_and_outputs_are_the_same_for_every_precision(graph: tuple[Precision, onnx.ModelProto]) -> None:
    _, model = graph

    def describe(value: onnx.ValueInfoProto) -> tuple[str, int, list[object]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]

    assert [describe(value) for value in model.graph.input] == [("frames", TensorProto.UINT8, ["batch", 32, 32, 1])]
    assert [describe(value) for value in model.graph.output] == [
        ("score", TensorProto.FLOAT, ["batch"]),
        ("heatmap", TensorProto.FLOAT, ["batch", 32, 32]),
    ]


def test_the_graph_is_what_tensorrt_can_parse(graph: tuple[Precision, onnx.ModelProto]) -> None:
    _, model = graph
    onnx.checker.check_model(model, full_check=True)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", OPSET)}
    users = [node.op_type for node in model.graph.node if "frames" in node.input]
    assert users == ["Cast"], "TensorRT takes uint8 into a Cast and nothing else"
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in [*inferred.graph.value_info, *inferred.graph.input]}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ELEMENTWISE:
            assert len({types[name] for name in node.input if name}) == 1, f"{node.name} mixes types"


def test_batch_norm_is_folded_and_nothing_is_dead(graph: tuple[Precision, onnx.ModelProto]) -> None:
    precision, model = graph
    operators = Counter(node.op_type for node in model.graph.node)
    assert not operators & Counter({"BatchNormalization": 1, "Identity": 1, "Dropout": 1, "Constant": 1})
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    assert all(set(node.output) & used for node in model.graph.node)
    assert {tensor.name for tensor in model.graph.initializer} <= used
    halves = sum(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    assert (halves > 0) is (precision == "fp16")


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 1e-2)])
def test_the_graph_scores_as_pytorch_does(line: Line, precision: Precision, tolerance: float) -> None:
    import torch

    from lrdan_edge.train.scoring import load_ae2

    bundle = Bundle.open(line.bundle)
    frames = load_frames(list_images(line.data / "test"), (32, 32, 1))
    with torch.inference_mode():
        score, heatmap = (tensor.numpy() for tensor in load_ae2(bundle)(torch.from_numpy(frames)))
    session = onnxruntime.InferenceSession(bundle.graph(precision).read_bytes(), providers=["CPUExecutionProvider"])
    got_score, got_heatmap = session.run(["score", "heatmap"], {"frames": frames})
    scale = np.median(score)
    assert np.abs(got_score - score).max() <= tolerance * np.maximum(score, scale).max()
    assert np.abs(got_heatmap - heatmap).mean() <= tolerance * scale
    reported = bundle.manifest.stages["export"].results[precision]["largest_relative_score_difference"]
    assert 0 <= reported <= tolerance


@pytest.mark.parametrize("decoder", ["resize", "transposed"])
def test_folding_batch_norm_changes_nothing_but_the_layers(decoder: Literal["resize", "transposed"]) -> None:
    import torch
    from torch import nn

    from lrdan_edge.train.networks import Autoencoder, spec_for

    torch.manual_seed(0)
    autoencoder = Autoencoder(spec_for(32, 48, 3, decoder=decoder))
    x = torch.rand(4, 3, 32, 48) * 2 - 1
    for _ in range(3):
        autoencoder(x)  # so that the running statistics are not the initial ones
    autoencoder.eval().double()
    with torch.inference_mode():
        before, _ = autoencoder(x.double())
        fold_batch_norm(autoencoder)
        after, _ = autoencoder(x.double())
    assert not [layer for layer in autoencoder.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert torch.allclose(after, before, atol=1e-10)
