"""Layers as the runtimes describe them."""

import json
from typing import Any

import pytest

from lrdan_edge.backends.layers import count_precisions, onnxruntime_layers, precision_of, tensorrt_layer
from lrdan_edge.bundle.engine_sidecar import EngineLayer

CONVOLUTION = {
    "Name": "node_conv_4 + node_relu_5",
    "LayerType": "CaskConvolution",
    "ParameterType": "Convolution",
    "Outputs": [{"Name": "relu_5", "Dimensions": [1, 8, 16, 16], "Format/Datatype": "Row major linear FP16 format"}],
    "Weights": {"Type": "Half", "Count": 72},
    "Bias": {"Type": "Float", "Count": 8},
}


def test_a_layer_of_tensorrts_inspector() -> None:
    assert tensorrt_layer(json.dumps(CONVOLUTION)) == EngineLayer(
        name="node_conv_4 + node_relu_5", operator="Convolution", precision="fp16", shape=[1, 8, 16, 16], weights=72 * 2 + 8 * 4
    )


@pytest.mark.parametrize(
    "text", ["", "just a name", "[1, 2]", "{}", '{"Outputs": 3}', '{"Outputs": [{"Dimensions": "?"}]}', "null"]
)
def test_facts_missing_from_the_inspector_are_unknown(text: str) -> None:
    layer = tensorrt_layer(text)
    assert (layer.precision, layer.shape, layer.weights) == ("unknown", [], None)


def test_kernels_of_onnx_runtimes_profile() -> None:
    kernel: dict[str, Any] = {
        "cat": "Node",
        "name": "conv_quant_kernel_time",
        "args": {"op_name": "QLinearConv", "output_type_shape": [{"int8": [1, 8, 16, 16]}], "parameter_size": "640"},
    }
    others: list[dict[str, Any]] = [
        {"cat": "Session", "name": "model_run"},
        {"cat": "Node", "name": "conv_fence_before", "args": {}},
    ]
    layers = onnxruntime_layers([*others, kernel])
    assert layers == [
        EngineLayer(name="conv_quant", operator="QLinearConv", precision="int8", shape=[1, 8, 16, 16], weights=640)
    ]
    assert count_precisions([*layers, *layers]) == {"int8": 2}


@pytest.mark.parametrize(
    ("words", "precision"),
    [("u8", "int8"), ("FP32", "fp32"), ("bfloat16", "bf16"), ("float16", "fp16"), ("i64", "other"), ("", "other")],
)
def test_a_precision_is_read_from_its_description(words: str, precision: str) -> None:
    assert precision_of(words) == precision
