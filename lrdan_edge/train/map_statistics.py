"""The scoring constants: mean and deviation of the good images' anomaly maps at each pixel."""

import torch
from torch import Tensor, nn

from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.model.deployed import preprocess
from lrdan_edge.model.network import Network
from lrdan_edge.model.tiling import Untile


@torch.inference_mode()
def map_statistics(
    network: Network,
    frames: Tensor,
    preprocessing: Preprocessing,
    scoring: Scoring,
    spec: ModelSpec | None = None,
    batch_size: int = 32,
) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation of the anomaly map at every pixel, in evaluation mode.

    Args:
        network: The deployed network; left in evaluation mode.
        frames: Good images, uint8 [N, C, H, W]; with tiles, the tiles of each frame together, in the order of `Tile`.
        preprocessing: How frames are preprocessed.
        scoring: Which map is scored.
        spec: The networks, if frames are cut into tiles. Each tile position then has its own statistics.
        batch_size: Images per forward pass.

    Returns:
        Two tensors float32 [H, W]; with tiles, in the size of the untiled map.
    """

    def maps_of(images: Tensor) -> Tensor:
        x = preprocess(images.to(device).float(), preprocessing).contiguous(memory_format=torch.channels_last)
        return network.anomaly_map(x, scoring.source)

    network.eval()
    device = next(network.parameters()).device
    untile = Untile(spec).to(device) if spec else nn.Identity()
    tiles = len(spec.tile_rows) * len(spec.tile_columns) if spec else 1
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    at_once = max(1, batch_size // tiles) * tiles  # whole frames
    for start in range(0, len(frames), at_once):
        part = frames[start : start + at_once]
        maps = untile(torch.cat([maps_of(images) for images in torch.split(part, batch_size)])).double()
        total = total + maps.sum((0, 1))
        squares = squares + maps.square().sum((0, 1))
    count = len(frames) // tiles
    mean = torch.as_tensor(total) / count
    deviation = (torch.as_tensor(squares) / count - mean.square()).clamp_min(0).sqrt()
    return mean.float().cpu(), deviation.float().cpu()
