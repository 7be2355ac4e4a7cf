"""Conversion to half precision, with the parts that stay in float32."""

from typing import Any

from torch import Tensor, nn


class Float32Module(nn.Module):
    """A module whose constants and weights stay in float32: ``half()`` does not convert them, but they can move to a device."""

    def _apply(self, fn: Any, recurse: bool = True) -> "Float32Module":
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor).device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self


class Float32Layer(Float32Module):
    """A float32 layer in a half-precision network: it accepts any precision, and its output is half precision or float32."""

    def __init__(self, layer: nn.Module, *, halves: bool) -> None:
        """Wrap.

        Args:
            layer: The layer, in float32.
            halves: Whether to convert its output to half precision.
        """
        super().__init__()
        self.layer, self.halves = layer, halves

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, half or float32."""
        y: Tensor = self.layer(x.float())
        return y.half() if self.halves else y


def halve(module: nn.Module, network: nn.Module, first: int, *, last: bool = True, part: str | None = None) -> None:
    """Convert a network to half precision in place, except for its first convolutions and its last.

    Rounding errors in the first convolutions shift all later activations. They caused four fifths of the difference between the
    fp16 and fp32 graphs (docs/reference/graph.md). The last convolution's output becomes the score. All of them have few channels,
    so float32 costs little.

    Args:
        module: The deploy module; each `Float32Module` in it is not changed.
        network: The module's network, with batch normalisation folded.
        first: Number of convolutions at the start that stay in float32.
        last: Whether the last convolution stays in float32.
        part: Name of a part of the network that stays in float32 as a whole, or None; `first` counts the convolutions outside it.
    """
    whole = network.get_submodule(part) if part else None
    if part:
        setattr(network, part, nn.Identity())
    names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    for name in {*names[:first], *names[-1:][:last]}:
        owner, _, place = name.rpartition(".")
        kept = Float32Layer(network.get_submodule(name), halves=name != names[-1])
        setattr(network.get_submodule(owner), place, kept)
    module.half()
    if part:
        setattr(network, part, whole)
