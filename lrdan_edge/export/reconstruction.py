"""AE2's reconstruction as a separate graph, used to explain verdicts; see `lrdan_edge.runtime.explain`."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lrdan_edge.model.deployed import DeployModule, preprocess, standardisation

if TYPE_CHECKING:
    from lrdan_edge.bundle.spec import Preprocessing


class ReconstructionModule(nn.Module):
    """Computes AE2's reconstructions of frames, in grey levels."""

    def __init__(self, module: DeployModule) -> None:
        """Use AE2, preprocessing and tiling of the deploy module."""
        super().__init__()
        self.network, self.preprocessing, self.cut, self.stitch = (
            module.network,
            module.preprocessing,
            module.cut,
            module.stitch,
        )
        self.eval()

    def forward(self, frames: Tensor) -> Tensor:
        """Reconstruct.

        Args:
            frames: uint8 [N, H, W, C].

        Returns:
            float32 [N, h, w, C] in grey levels, not clipped; (h, w) is the heatmap's size.
        """
        raw = frames.float().permute(0, 3, 1, 2)
        raw = self.cut(raw) if self.cut else raw
        reconstruction, _ = self.network(preprocess(raw, self.preprocessing))
        grey_levels = to_grey_levels(reconstruction, raw, self.preprocessing)
        if self.stitch:
            grey_levels = torch.cat([self.stitch(channel) for channel in torch.split(grey_levels, 1, 1)], 1)
        return grey_levels.permute(0, 2, 3, 1)


def to_grey_levels(image: Tensor, raw: Tensor, preprocessing: "Preprocessing") -> Tensor:
    """Undo `preprocess`.

    Args:
        image: Input or output of the networks, float32 [N, C, H, W].
        raw: The frames it was made from, float32 [N, C, H, W] in [0, 255].
        preprocessing: The preprocessing that was applied.
    """
    if preprocessing.standardise:
        mean, deviation = standardisation(raw * preprocessing.scale + preprocessing.offset)
        image = image * deviation + mean
    return torch.div(image - preprocessing.offset, preprocessing.scale)
