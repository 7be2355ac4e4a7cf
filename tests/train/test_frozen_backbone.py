"""The frozen backbone that trainings use computes what the network does, on ONNX Runtime and on PyTorch."""

import onnx
import pytest
import torch

from lrdan_edge.model.backbone import EfficientNetLite
from lrdan_edge.model.folding import fold_batch_norm
from lrdan_edge.model.pretrained import load_pretrained
from lrdan_edge.train.frozen_backbone import FrozenBackbone, backbone_graph


@pytest.mark.parametrize("size", [(28, 28), (36, 100), (61, 64)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strides", [(2, 4, 8, 16), (8,)], ids=str)
def test_features_are_those_of_the_network(strides: tuple[int, ...], channels: int, size: tuple[int, int]) -> None:
    network = EfficientNetLite("efficientnet-lite0", 3 if channels == 3 else 1, strides)
    load_pretrained("efficientnet-lite0").load_into(network)
    frozen = FrozenBackbone(network)
    for images in (2, 3):  # any number of images
        x = torch.randn(images, channels, *size).contiguous(memory_format=torch.channels_last)
        for found, expected in zip(frozen(x), network(x), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
            assert not found.requires_grad


def test_the_graph_is_valid() -> None:
    network = EfficientNetLite("efficientnet-lite1", 1)
    fold_batch_norm(network)
    model = onnx.load_from_string(backbone_graph(network))
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} == {"Conv", "Clip", "Add"}
