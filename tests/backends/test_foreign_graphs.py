"""An ONNX file that is not ours, however near to ours it comes, is refused in words by every backend that reads ONNX."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.backends.openvino import OpenVinoBackend
from lrdan_edge.errors import BackendError

UINT8, FLOAT, INT32 = TensorProto.UINT8, TensorProto.FLOAT, TensorProto.INT32
BACKENDS = [OnnxRuntimeBackend, OpenVinoBackend]


def near_graph(
    *,
    name: str = "frames",
    kind: int = UINT8,
    frame: tuple[str | int, ...] = ("n", 8, 8, 1),
    heatmap: bool = True,
    score: int = FLOAT,
    second_input: bool = False,
) -> bytes:
    """A graph that takes the largest pixel as score and the pixels as heatmap, but for what is changed."""
    axes = np.arange(1, len(frame))
    nodes = [
        helper.make_node("Cast", [name], ["pixels"], to=FLOAT),
        helper.make_node("Mul", ["pixels", "gain" if second_input else "one"], ["scaled"]),
        helper.make_node("ReduceMax", ["scaled", "axes"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["score"], to=score),
    ]
    outputs = [helper.make_tensor_value_info("score", score, [frame[0]])]
    if heatmap:
        last = helper.make_node("Squeeze", ["scaled", "last"], ["heatmap"])
        nodes.append(last if len(frame) == 4 else helper.make_node("Relu", ["scaled"], ["heatmap"]))
        outputs.append(helper.make_tensor_value_info("heatmap", FLOAT, frame[:3]))
    inputs = [helper.make_tensor_value_info(name, kind, frame)]
    inputs += [helper.make_tensor_value_info("gain", FLOAT, [1])] * second_input
    constants = {"one": np.ones(1, np.float32), "axes": axes, "last": np.array([3])}
    initialisers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, "near", inputs, outputs, initialisers)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_valid_deploy_graph_is_accepted(backend: type[OnnxRuntimeBackend] | type[OpenVinoBackend]) -> None:
    if backend is OpenVinoBackend:
        pytest.importorskip("openvino")
    with backend(near_graph(), "fp32") as opened:
        assert (opened.spec.frame_shape, opened.spec.heatmap_shape) == ((8, 8, 1), (8, 8))
        assert opened.infer(np.full((2, 8, 8, 1), 7, np.uint8)).score.tolist() == [7, 7]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "change",
    [
        {"name": "images"},
        {"kind": FLOAT},
        {"frame": ("n", 8, 8)},
        {"frame": ("n", "h", "w", 1)},
        {"heatmap": False},
        {"score": INT32},
        {"second_input": True},
    ],
    ids=str,
)
def test_what_is_nearly_one_is_refused(
    backend: type[OnnxRuntimeBackend] | type[OpenVinoBackend], change: dict[str, Any]
) -> None:
    if backend is OpenVinoBackend:
        pytest.importorskip("openvino")
    data = near_graph(**change)
    onnx.checker.check_model(data)
    with pytest.raises(BackendError, match=r"is not a deploy graph, which takes frames .* make the graph again") as refusal:
        backend(data, "fp32")
    assert "\n" not in str(refusal.value)
