"""The contract of a deployed network: images in, an anomaly map out."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from lrdan_edge.bundle.command import Command
from lrdan_edge.errors import BundleError
from lrdan_edge.model.precision import halve

MapSource = Literal["error", "defects"]


class Network(nn.Module, ABC):
    """A network that the deploy graph contains.

    Attributes:
        reconstructs: Whether `forward` returns a reconstruction of its input first, which `explain` shows.
        float32_first: Candidate numbers of first convolutions that stay in float32 in an fp16 graph; the smallest that meets the
            parity bounds is used.
    """

    reconstructs: ClassVar[bool] = True
    float32_first: ClassVar[tuple[int, ...]] = (2, 4, 6, 8)

    @abstractmethod
    def anomaly_map(self, x: Tensor, source: MapSource) -> Tensor:
        """Compute the anomaly map, which is scored.

        Args:
            x: Images, float32 [N, C, H, W]; the network may be in any precision.
            source: The map's content; see `Scoring`.

        Returns:
            float32 [N, 1, H, W]; higher is more anomalous.

        Raises:
            BundleError: The network has no map of this source.
        """

    def for_scoring(self, source: MapSource) -> "Network":  # noqa: ARG002
        """A network with the same anomaly map and without what only training needs; it may share this network's parts."""
        return self

    def halve(self, module: nn.Module, first: int) -> None:
        """Convert to half precision in place, with `module`, the deploy module; `first` is one of `float32_first`."""
        halve(module, self, first)

    def cast(self, x: Tensor) -> Tensor:
        """Images in the precision of the network's first layer."""
        return x.to(next(self.parameters()).dtype)


def reconstruction_error(x: Tensor, reconstruction: Tensor) -> Tensor:
    """The mean over channels of |x − x''|: float32 [N, 1, H, W] of two tensors [N, C, H, W]."""
    return (x - reconstruction.float()).abs().mean(1, keepdim=True)


def no_such_map(source: MapSource, reason: str) -> BundleError:
    """The error for a source that a network does not have; `reason` says why."""
    return BundleError(
        f"scoring.source is {source}, but {reason}", "run '{command}' again", command=Command("train", overwrite=True)
    )
