"""The contract of a deployed network: images in, an anomaly map out."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from lrdan_edge.bundle.command import Command
from lrdan_edge.errors import BundleError

MapSource = Literal["error", "defects"]


class Network(nn.Module, ABC):
    """A network that the deploy graph contains.

    Attributes:
        reconstructs: Whether `forward` returns a reconstruction of its input first, which `explain` shows.
        last_in_float32: Whether the output of the last convolution is so close to the score that an fp16 graph keeps it in float32.
        float32_part: The part that an fp16 graph keeps in float32 as a whole where its bounds would break otherwise. None: it keeps
            more of the first convolutions instead.
    """

    reconstructs: ClassVar[bool] = True
    last_in_float32: ClassVar[bool] = True
    float32_part: ClassVar[str | None] = None

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
