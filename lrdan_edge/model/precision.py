"""What stays in float32 when the networks go to half precision."""

from typing import Any

from torch import Tensor, nn


class Float32Module(nn.Module):
    """A module whose constants and weights move to a device, but keep their type: ``half()`` neither halves nor rounds them."""

    def _apply(self, fn: Any, recurse: bool = True) -> "Float32Module":
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor).device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self


class Float32Layer(Float32Module):
    """A layer in float32 among halves: whatever comes in, its output is in half precision, or as it is."""

    def __init__(self, layer: nn.Module, *, halves: bool) -> None:
        """Wrap.

        Args:
            layer: The layer, in float32.
            halves: Whether its output goes on in half precision.
        """
        super().__init__()
        self.layer, self.halves = layer, halves

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, half or float32."""
        y: Tensor = self.layer(x.float())
        return y.half() if self.halves else y


def halve(module: nn.Module, network: nn.Module, first: int, *, last: bool = True) -> None:
    """Turn a network to half precision, in place, but for its first convolutions, two or more, and its last.

    The first ones see grey levels: what their weights, biases and input lose moves every activation after them alike, and was
    four fifths of the fp16 graph's distance from fp32 (docs/reference/graph.md). The last one's output is what the score is made of.
    They have few channels.

    Args:
        module: What is deployed; `Float32Module` in it stay as they are.
        network: Its network, whose batch normalisation is folded.
        first: How many convolutions at its start stay in float32.
        last: Whether the last one does.
    """
    names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    for name in {*names[:first], *names[-1:][:last]}:
        owner, _, place = name.rpartition(".")
        kept = Float32Layer(network.get_submodule(name), halves=name != names[-1])
        setattr(network.get_submodule(owner), place, kept)
    module.half()
