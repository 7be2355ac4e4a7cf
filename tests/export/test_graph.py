from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from deploy import SHARED, assert_clean, deploy_module, exported, frame_shape
from onnx import TensorProto
from parts import Line

from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.spec import PRECISIONS, Precision
from lrdan_edge.data.images import list_images, load_frames
from lrdan_edge.export.graph import OPSET, prepare
from lrdan_edge.export.parity import SCORE_BOUND
from lrdan_edge.export.reference import torch_outputs
from lrdan_edge.metrics import relative_differences
from lrdan_edge.model.folding import fold_batch_norm


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


def test_the_graph_is_clean(graph: tuple[Precision, onnx.ModelProto]) -> None:
    precision, model = graph
    assert_clean(model, OPSET)
    halves = sum(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    assert (halves > 0) is (precision == "fp16")


@pytest.mark.parametrize(("shape", "decoder", "precision", "geometry"), [case for case in SHARED if case[3] != "none"])
def test_every_geometry_is_in_a_clean_graph(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int, int], decoder: str, precision: Precision, geometry: str
) -> None:
    frame = frame_shape(shape, geometry)
    model = onnx.load(exported(tmp_path_factory, shape, decoder, precision, geometry))
    assert_clean(model, OPSET)

    frames = np.random.default_rng(0).integers(0, 256, (3, *frame), np.uint8)
    expected = torch_outputs(deploy_module(shape, decoder, geometry), frames)
    with OnnxRuntimeBackend(model.SerializeToString(), precision) as backend:
        assert backend.spec.frame_shape == frame
        actual = backend.infer(frames)
    assert actual.heatmap is not None
    assert actual.heatmap.shape == expected[1].shape
    bound = SCORE_BOUND.get(precision, 0.2)
    assert relative_differences(actual.score, expected[0], 1.0).max() <= bound


def test_constants_are_not_rounded_in_the_fp16_graph() -> None:
    import torch

    module, whole = (deploy_module((44, 36, 1), "restorer", "tiles") for _ in range(2))
    kept = {name: value.clone() for name, value in module.named_buffers() if not name.startswith("network.")}
    prepare(whole, "fp32")
    trained = dict(whole.network.named_parameters())
    first, last = trained["stem.0.weight"], trained["head.weight"]
    prepare(module, "fp16")
    assert {"head.error_mean", "head.kernel", "cut.resize.rows", "stitch.row_weights"} <= set(kept)
    for name, value in module.named_buffers():
        if not name.startswith("network."):
            assert torch.equal(value, kept[name]), name
    weights = {name: value for name, value in module.network.named_parameters() if name.endswith("weight")}
    assert torch.equal(weights["stem.0.layer.weight"], first)
    assert torch.equal(weights["head.layer.weight"], last)
    assert weights["down.0.0.weight"].dtype == torch.float16


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 5e-3)])
def test_the_graph_scores_as_pytorch_does(line: Line, precision: Precision, tolerance: float) -> None:
    import torch

    from lrdan_edge.model.deployed import load_network

    bundle = Bundle.open(line.bundle)
    frames = load_frames(list_images(line.data / "test"), (32, 32, 1))
    with torch.inference_mode():
        score, heatmap = (tensor.numpy() for tensor in load_network(bundle)(torch.from_numpy(frames)))
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
    from specs import spec_for
    from torch import nn

    from lrdan_edge.model.networks import Autoencoder

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
