import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from lrdan_edge.export.simplify import drop_unused_channels


def head(start: int, end: int, *, also: bool = False, mode: str = "CRD") -> onnx.ModelProto:
    """Convolution to three channels of a doubled image, of which [start, end) are taken; `also`: another reads them all."""
    rng = np.random.default_rng(0)
    constants = {
        "weight": rng.normal(size=(12, 2, 3, 3)).astype(np.float32),
        "bias": rng.normal(size=12).astype(np.float32),
        "start": np.array([start], np.int64),
        "end": np.array([end], np.int64),
        "axes": np.array([1], np.int64),
        "steps": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "weight", "bias"], ["conv"], pads=[1] * 4),
        helper.make_node("DepthToSpace", ["conv"], ["shuffled"], blocksize=2, mode=mode),
        helper.make_node("Slice", ["shuffled", "start", "end", "axes", "steps"], ["taken"]),
        helper.make_node("Abs", ["taken"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    if also:
        nodes.append(helper.make_node("Abs", ["shuffled"], ["all"]))
        outputs.append(helper.make_tensor_value_info("all", TensorProto.FLOAT, None))
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 5, 6])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(1).normal(size=(3, 2, 5, 6)).astype(np.float32)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]


@pytest.mark.parametrize(("start", "end"), [(1, 2), (2, 2**63 - 1), (0, 2), (-1, 2**63 - 1)])
def test_channels_that_nobody_reads_are_not_computed(start: int, end: int) -> None:
    model = head(start, end)
    before = run(model)
    drop_unused_channels(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Conv", "DepthToSpace", "Abs"]
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    assert weight.dims[0] == 4 * before.shape[1]
    assert {tensor.name for tensor in model.graph.initializer} == {"weight", "bias"}
    assert np.allclose(run(model), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", [head(1, 2, also=True), head(1, 2, mode="DCR")], ids=["read elsewhere", "other order"])
def test_other_graphs_are_left_alone(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    drop_unused_channels(model.graph)
    assert model.SerializeToString(deterministic=True) == before
