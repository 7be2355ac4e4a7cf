"""EfficientNet-Lite, a frozen backbone: feature maps of images at several strides.

EfficientNet-Lite is EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, so that it quantises well. Only the
blocks up to the largest stride that is asked for are used. The pretrained weights are read by `lrdan_edge.model.pretrained`.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (2, 4, 8, 16, 32)
"""The strides with feature maps; a map at stride s has ceil(H / s) rows and ceil(W / s) columns."""

SCALING = {"efficientnet-lite0": (1.0, 1.0), "efficientnet-lite1": (1.0, 1.1), "efficientnet-lite2": (1.1, 1.2)}
"""The factors of width (channels) and depth (blocks per stage) of each variant."""

STEM_CHANNELS = 32
SCALE, OFFSET = 1 / 128, -127 / 128
"""`Preprocessing.scale` and ``offset`` of the images that the pretrained weights expect: (v − 127) / 128."""

IMAGENET_DEVIATION = 0.45
"""The standard deviation of ImageNet's images after this preprocessing (0.226 of the range of grey levels)."""

_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel size, stride, expansion and channels of each stage of EfficientNet-Lite0. The first and the last always have one block."""

_EPSILON = 1e-3  # of the batch normalisation of these models
_WIDTH_MULTIPLE = 8


@dataclass(frozen=True)
class BlockShape:
    """The shape of one block.

    Attributes:
        inputs: Channels before.
        outputs: Channels after.
        kernel: Side of the depthwise kernel, 3 or 5.
        stride: 1 or 2.
        expansion: Factor by which the first convolution raises the channels; 1 for none.
        total_stride: Stride of the block's output relative to the image.
    """

    inputs: int
    outputs: int
    kernel: int
    stride: int
    expansion: int
    total_stride: int


def block_shapes(variant: str) -> list[BlockShape]:
    """The blocks of a variant, in order.

    Args:
        variant: A key of `SCALING`.
    """
    width, depth = SCALING[variant]
    shapes: list[BlockShape] = []
    before, total = STEM_CHANNELS, 2
    for blocks, kernel, stride, expansion, channels in _STAGES:
        outputs = scaled_channels(channels, width)
        for block in range(1 if blocks == 1 else math.ceil(depth * blocks)):
            step = stride if block == 0 else 1
            total *= step
            shapes.append(BlockShape(before, outputs, kernel, step, expansion, total))
            before = outputs
    return shapes


def scaled_channels(channels: int, width: float) -> int:
    """Channels scaled by `width` and rounded to a multiple of 8, never by more than a tenth downwards."""
    scaled = channels * width
    rounded = max(_WIDTH_MULTIPLE, int(scaled + _WIDTH_MULTIPLE / 2) // _WIDTH_MULTIPLE * _WIDTH_MULTIPLE)
    return rounded + _WIDTH_MULTIPLE if rounded < 0.9 * scaled else rounded


def feature_channels(variant: str, strides: Sequence[int] = STRIDES) -> list[int]:
    """Channels of the feature maps at each of `strides`: those of the last block at this stride."""
    last = {shape.total_stride: shape.outputs for shape in block_shapes(variant)}
    return [last[stride] for stride in strides]


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding ``same``: where it is uneven, right and bottom get one row more.

    The exporter folds the padding into the convolution; ONNX, TensorRT and OpenVINO allow uneven padding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve float [N, C, H, W] to [N, K, ceil(H / stride), ceil(W / stride)]."""
        (top, bottom), (left, right) = (self._sides(int(side)) for side in x.shape[2:])
        padded = F.pad(x, (left, right, top, bottom)) if top or bottom or left or right else x
        return super().forward(padded)

    def _sides(self, side: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        whole = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        return whole // 2, whole - whole // 2


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, active: bool = True
) -> nn.Sequential:
    """A convolution with batch normalisation and, if `active`, ReLU6; the output has ceil(side / stride) rows and columns."""
    if stride > 1:
        layer: nn.Conv2d = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    else:  # the same padding on both sides
        layer = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, groups=groups, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=layer, norm=nn.BatchNorm2d(outputs, eps=_EPSILON))
    if active:
        layers["act"] = nn.ReLU6(inplace=True)
    return nn.Sequential(layers)


class InvertedResidual(nn.Module):
    """A block of MobileNetV2 (arXiv 1801.04381): expand the channels, convolve each of them, project to fewer channels."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        inner = shape.inputs * shape.expansion
        self.expand = _convolution(shape.inputs, inner, 1) if shape.expansion > 1 else nn.Identity()
        self.depthwise = _convolution(inner, inner, shape.kernel, shape.stride, groups=inner)
        self.project = _convolution(inner, shape.outputs, 1, active=False)
        self.adds = shape.stride == 1 and shape.inputs == shape.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Transform float [N, inputs, H, W] to float [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        x = x.to(next(self.parameters()).dtype)  # the block before may be in another precision
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class EfficientNetLite(nn.Module):
    """The frozen backbone: always in evaluation mode, and without gradients for its weights (they still pass through it)."""

    def __init__(self, variant: str, channels: Literal[1, 3], strides: Sequence[int] = STRIDES) -> None:
        """Make the blocks that `strides` need, with the weights of torch's initialisation.

        Args:
            variant: A key of `SCALING`.
            channels: 1 (grey) or 3 (blue, green, red) of the images.
            strides: Some of `STRIDES`, in ascending order.
        """
        super().__init__()
        shapes = [shape for shape in block_shapes(variant) if shape.total_stride <= max(strides)]
        self.variant, self.channels, self.strides = variant, channels, tuple(strides)
        self.stem = _convolution(channels, STEM_CHANNELS, 3, 2)
        self.blocks = nn.ModuleList(InvertedResidual(shape) for shape in shapes)
        strides_of_blocks = [shape.total_stride for shape in shapes]
        self.places = [len(strides_of_blocks) - 1 - strides_of_blocks[::-1].index(stride) for stride in strides]
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "EfficientNetLite":  # noqa: ARG002
        """Stay in evaluation mode, in which batch normalisation uses the statistics of the pretraining."""
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute feature maps.

        Args:
            x: Images, float [N, C, H, W], preprocessed with `SCALE` and `OFFSET`.

        Returns:
            One map per stride s, float [N, K, ceil(H / s), ceil(W / s)], K as `feature_channels`.
        """
        x = self.stem(x)
        features = []
        for place, block in enumerate(self.blocks):
            x = block(x)
            if place in self.places:
                features.append(x)
        return features

    @torch.no_grad()
    def load_rgb(self, weights: dict[str, Tensor], contrast: float = 1.0) -> None:
        """Load weights of a backbone for RGB images; blocks that are not used are ignored.

        The order of the colours is folded into the first convolution: for blue, green, red its channels are reversed, and for grey they
        are summed, since a grey image shows the same value in all three.

        Args:
            weights: Tensors by the names of this module's state; the first convolution has 3 input channels.
            contrast: Factor that the images would have to be multiplied by; it is folded into the first convolution too.

        Raises:
            RuntimeError: A tensor is missing or has another shape.
        """
        stem = weights["stem.conv.weight"]
        adapted = stem.flip(1) if self.channels == 3 else stem.sum(1, keepdim=True)
        own = {name: weights[name] for name in self.state_dict() if name in weights}
        self.load_state_dict(own | {"stem.conv.weight": contrast * adapted.contiguous()})
