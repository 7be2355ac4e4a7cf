"""A frozen backbone for training: its features without gradients, on the processor by ONNX Runtime, which is faster."""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from lrdan_edge.model.backbone import EfficientNetLite, InvertedResidual
from lrdan_edge.model.folding import fold_batch_norm

_OPSET = 17


class FrozenBackbone:
    """Computes what an `EfficientNetLite` does: by ONNX Runtime on the processor, elsewhere by PyTorch with folded batch normalisation.

    Both differ from it by rounding only.
    """

    def __init__(self, backbone: EfficientNetLite) -> None:
        """Keep a copy of the backbone with its weights of now, on its device."""
        self._folded = deepcopy(backbone)
        fold_batch_norm(self._folded)
        self._session = None
        if next(backbone.parameters()).device.type == "cpu":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # PyTorch's threads need the cores next
            self._session = onnxruntime.InferenceSession(
                backbone_graph(self._folded), options, providers=["CPUExecutionProvider"]
            )

    @torch.no_grad()
    def __call__(self, x: Tensor) -> list[Tensor]:
        """Compute features.

        Args:
            x: Images, float32 [N, C, H, W], as `EfficientNetLite.forward` takes them.

        Returns:
            Its features, float [N, K, h, w] per stride, channels last.
        """
        if self._session is None:
            features: list[Tensor] = self._folded(x)
            return features
        found = self._session.run(None, {"x": x.contiguous().numpy()})
        return [torch.from_numpy(one).contiguous(memory_format=torch.channels_last) for one in found]


def backbone_graph(folded: EfficientNetLite) -> bytes:
    """Write a backbone as an ONNX graph for images of any number and size.

    PyTorch's exporter would take many times as long, and would need an example image.

    Args:
        folded: The backbone, on the processor, with batch normalisation folded into its convolutions.

    Returns:
        The graph; its input ``x`` is float32 [N, C, H, W], its outputs are the features in order.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def convolved(x: str, layer: nn.Module) -> str:
        """Add a convolution, with what follows it in its `nn.Sequential`; its name is that of its output."""
        assert isinstance(layer, nn.Sequential)
        convolution, name = layer[0], f"layer{len(nodes)}"
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        for kind, tensor in (("weight", convolution.weight), ("bias", convolution.bias)):
            weights.append(numpy_helper.from_array(tensor.detach().contiguous().numpy(), f"{name}.{kind}"))
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        strides = list(convolution.stride)
        nodes.append(helper.make_node("Conv", inputs, [name], auto_pad="SAME_UPPER", strides=strides, group=convolution.groups))
        if not any(isinstance(one, nn.ReLU6) for one in layer):
            return name
        nodes.append(helper.make_node("Clip", [name, "zero", "six"], [f"{name}.clipped"]))
        return f"{name}.clipped"

    weights += [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("zero", 0), ("six", 6))]
    x, found = convolved("x", folded.stem), []
    for place, block in enumerate(folded.blocks):
        assert isinstance(block, InvertedResidual)
        y = x if isinstance(block.expand, nn.Identity) else convolved(x, block.expand)
        y = convolved(convolved(y, block.depthwise), block.project)
        if block.adds:
            nodes.append(helper.make_node("Add", [x, y], [f"block{place}"]))
            y = f"block{place}"
        x = y
        if place in folded.places:
            found.append(x)

    def value(name: str, channels: int | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, channels, None, None])

    graph = helper.make_graph(nodes, "backbone", [value("x", folded.channels)], [value(name, None) for name in found], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    serialised: bytes = model.SerializeToString()
    return serialised
