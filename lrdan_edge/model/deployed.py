"""The deploy graph in PyTorch: preprocessing, the network and the scoring head in one module."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.names import WEIGHTS
from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.errors import BundleError
from lrdan_edge.model.architectures import network_for
from lrdan_edge.model.network import MapSource, Network
from lrdan_edge.model.precision import Float32Module
from lrdan_edge.model.tiling import Tile, Untile

LEAST_CONTRAST = 0.06  # of a range of 2; added to an image's deviation before dividing by it
SAMPLING_STEP = 4  # pixels
CONTEXT_WINDOW = 0.5  # of each side
CONTEXT_FRACTION = 0.01  # this fraction of defective pixels in the window doubles the odds of a pixel
CONTEXT_CELLS = 16  # per side: the average over such a wide window changes slowly
LEAST_SIGMA = 0.1  # pixels; a narrower Gaussian has no effect


class ScoringHead(Float32Module):
    """From an anomaly map (of the network) to score and heatmap; in float32.

    map' = smooth((map − mean) / deviation). The score is the maximum, mean or root mean square of map', and map' is the heatmap.
    To log-odds the head can add the area term (`area_term`), and then to the heatmap only, after the score is taken, the context gain
    (`ContextGain`).
    """

    error_mean: Tensor
    error_deviation: Tensor
    kernel: Tensor

    def __init__(self, spec: ModelSpec, scoring: Scoring, error_mean: Tensor, error_std: Tensor) -> None:
        """Keep the constants.

        Args:
            spec: The networks' shape.
            scoring: How to score.
            error_mean: The good images' mean map, float32 [H, W] of ``spec.heatmap_shape``.
            error_std: The standard deviation of the same maps at each pixel, same shape.

        Raises:
            BundleError: The constants do not have the heatmap's size.
        """
        super().__init__()
        for name, constant in (("error_mean", error_mean), ("error_std", error_std)):
            if tuple(constant.shape) != spec.heatmap_shape:
                raise BundleError(
                    f"scoring.{name} is {list(constant.shape)}, the model's maps are {list(spec.heatmap_shape)}",
                    "run '{command}' again",
                    command=Command("train", overwrite=True),
                )
        self.normalise, self.pooling, self.adds_area_term = scoring.normalise, scoring.pooling, scoring.extent
        self.register_buffer("error_mean", error_mean.float().clone()[None, None])
        self.register_buffer("error_deviation", error_std.float().clamp_min(scoring.deviation_floor)[None, None])
        self.register_buffer("kernel", gaussian_kernel(scoring.smoothing_sigma, min(spec.heatmap_shape)))
        self.nearby = ContextGain(spec.heatmap_shape) if scoring.nearby else None

    def forward(self, heat: Tensor) -> tuple[Tensor, Tensor]:
        """Score.

        Args:
            heat: The map, float32 [N, 1, H, W]; see `Network.anomaly_map`.

        Returns:
            Score float32 [N] and heatmap float32 [N, H, W]; higher is more anomalous.
        """
        if self.normalise:
            heat = (heat - self.error_mean) / self.error_deviation
        heat = smooth(heat, self.kernel).squeeze(1)  # OpenVINO sums over the last axis, so drop the channel axis
        gain = self.nearby(heat) if self.nearby else None
        if self.adds_area_term:
            heat = heat + area_term(heat)
        if self.pooling == "rms":
            score = heat.square().mean((1, 2)).sqrt()
        else:
            score = heat.amax((1, 2)) if self.pooling == "max" else heat.mean((1, 2))
        return score, (heat if gain is None else heat + gain)


class DeployModule(nn.Module):
    """The deploy graph: camera frames in, score and heatmap out. Always in evaluation mode."""

    def __init__(
        self,
        network: Network,
        head: ScoringHead,
        preprocessing: Preprocessing,
        source: MapSource,
        spec: ModelSpec | None = None,
    ) -> None:
        """Combine the parts.

        Args:
            network: The network.
            head: Turns the map of the network into score and heatmap.
            preprocessing: Preprocessing of the network's images.
            source: The map's content; see `Scoring`.
            spec: The network's shape if it has a geometry, else None (a frame is one image).
        """
        super().__init__()
        self.network, self.head, self.source, self.preprocessing = network, head, source, preprocessing
        geometry = spec.geometry if spec else None
        # The attribute names become the names of the graph's initialisers. Calibration relies on them, also in older graphs.
        self.cut = Tile(spec, geometry) if spec and geometry else None
        self.stitch = Untile(spec) if spec and geometry else None
        self.eval()

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Score frames.

        Args:
            frames: uint8 [N, H, W, C], BGR or grey.

        Returns:
            Score float32 [N] and heatmap float32 [N, H, W].
        """
        # TensorRT accepts uint8 only as the input of a cast, so the cast comes first. The arithmetic stays in float32 (a
        # scaled grey level is not exact in half precision); only the network uses its own precision.
        x = frames.float().permute(0, 3, 1, 2)
        x = preprocess(self.cut(x) if self.cut else x, self.preprocessing)
        heat = self.network.anomaly_map(x, self.source)
        score, heatmap = self.head(self.stitch(heat) if self.stitch else heat)
        return score, heatmap


def preprocess(frames: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Scale and standardise frames for the networks: float32 [N, C, H, W] in [0, 255] to float32 [N, C, H, W]."""
    if preprocessing.standardise:  # scale and offset cancel, except in the least contrast; this saves two operations
        mean, deviation = standardisation(frames, LEAST_CONTRAST / preprocessing.scale)
        return (frames - mean) / deviation
    return frames * preprocessing.scale + preprocessing.offset


def standardisation(x: Tensor, least: float = LEAST_CONTRAST) -> tuple[Tensor, Tensor]:
    """Each image's mean, and its deviation plus `least` (so that a blank image stays blank), both float32 [N, 1, 1, 1]."""
    mean = image_mean(x)
    centred = x - mean  # squared by a product: ONNX has only a general, slow power
    return mean, image_mean(centred * centred).sqrt() + least


def image_mean(x: Tensor) -> Tensor:
    """Each image's mean, [N, 1, 1, 1] of [N, C, H, W], as the mean of its rows' means.

    Inference engines sum sequentially, which loses three digits over a whole image. Flattening between the two means prevents
    engines from fusing them into one sum.
    """
    return x.mean(3).flatten(1).mean(1).reshape(-1, 1, 1, 1)


def sampled_probabilities(heat: Tensor) -> Tensor:
    """The probabilities of log-odds float32 [N, H, W] at every fourth row and column: float32 [N, h, w].

    This is precise enough for a mean, since defects are many pixels wide, and it costs almost nothing.
    """
    first, step = SAMPLING_STEP // 2, SAMPLING_STEP
    return torch.sigmoid(heat[:, first::step, first::step])


def area_term(heat: Tensor) -> Tensor:
    """The log of the defective fraction of each image, from log-odds float32 [N, H, W]: float32 [N, 1, 1].

    It separates a large, faint defect from a small, faint mark. One pixel is added to avoid the logarithm of 0.
    """
    fraction = image_mean(sampled_probabilities(heat)[:, None]).squeeze(1)
    return torch.log(fraction + 1 / (heat.shape[-2] * heat.shape[-1]))


class ContextGain(Float32Module):
    """The context gain: the log-odds of a pixel rise by log(1 + f / 0.01), where f is the defective fraction of its context.

    A network often marks only a part of a large defect, and the pixels between the parts are defective too. The context is a window of
    half of each side, as far as it lies in the image. The average over such a wide window changes slowly, so it is computed at 16 by 16
    places and the gain is interpolated, by products with small constant matrices, as in `lrdan_edge.model.tiling.AreaResize`.
    """

    rows: Tensor
    columns: Tensor
    to_rows: Tensor
    to_columns: Tensor

    def __init__(self, shape: tuple[int, int]) -> None:
        """Make the matrices for maps of `shape` (rows, columns), each 28 or more."""
        super().__init__()
        for name, side in zip(("rows", "columns"), shape, strict=True):
            averages, interpolation = _context_weights(side)
            transposed = name == "columns"
            self.register_buffer(name, (averages.T if transposed else averages)[None].contiguous())
            self.register_buffer(f"to_{name}", (interpolation.T if transposed else interpolation)[None].contiguous())

    def forward(self, heat: Tensor) -> Tensor:
        """Compute gains, float32 [N, H, W] from 0 to log(101), from log-odds float32 [N, H, W]."""
        fraction = self.rows @ sampled_probabilities(heat) @ self.columns
        gain: Tensor = self.to_rows @ torch.log(1 + fraction / CONTEXT_FRACTION) @ self.to_columns
        return gain


def _context_weights(side: int) -> tuple[Tensor, Tensor]:
    """Matrices for one axis: averages of samples around each cell [cells, samples], and interpolation to pixels [side, cells]."""
    places = torch.arange(SAMPLING_STEP // 2, side, SAMPLING_STEP)
    centres = (torch.arange(CONTEXT_CELLS) + 0.5) * side / CONTEXT_CELLS - 0.5
    near = ((centres[:, None] - places).abs() <= CONTEXT_WINDOW / 2 * side).float()
    steps = (torch.arange(side)[:, None] - centres) * CONTEXT_CELLS / side
    tents = (1 - steps.abs()).clamp_min(0)  # beyond the first and last centre, only the nearest cell counts, with weight 1
    return near / near.sum(1, keepdim=True), tents / tents.sum(1, keepdim=True)


def gaussian_kernel(sigma: float, side: int) -> Tensor:
    """A normalised Gaussian, float32 [2r + 1], r about 2.5 sigma and less than `side`; [1] if sigma is below `LEAST_SIGMA`."""
    if sigma < LEAST_SIGMA:
        return torch.ones(1)
    radius = min(math.ceil(2.5 * sigma), side - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-offsets.square() / (2 * sigma * sigma))
    return kernel / kernel.sum()


def smooth(maps: Tensor, kernel: Tensor) -> Tensor:
    """Convolve float32 [N, 1, H, W] with `kernel` along rows and columns, edges repeated."""
    radius = kernel.numel() // 2
    if radius == 0:
        return maps
    maps = F.pad(maps, (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(maps, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def load_network(bundle: Bundle, device: str = "cpu") -> DeployModule:
    """Rebuild the deploy module from the bundle's weights.

    Args:
        bundle: A trained bundle.
        device: A torch device.

    Raises:
        MissingStageError: The bundle is not trained.
        ChangedFileError: The weights do not have the sha256 in the manifest.
        BundleError: The weights do not match the manifest's model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path, data = bundle.path / WEIGHTS, bundle.read(WEIGHTS, Command("train"))
    spec = bundle.manifest.model
    try:
        tensors = load(data)
        network = network_for(spec)
        network.load_state_dict(_network_tensors(tensors))
        mean, deviation = tensors["scoring.error_mean"], tensors["scoring.error_std"]
    except (SafetensorError, RuntimeError, LookupError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(
            f"{path} does not match the model in the manifest ({reason})",
            "run '{command}' again",
            command=Command("train", overwrite=True),
        ) from error
    head = ScoringHead(spec, bundle.manifest.scoring, mean, deviation)
    return DeployModule(network, head, bundle.manifest.preprocessing, bundle.manifest.scoring.source, spec).to(device)


def _network_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the deployed network; up to version 0.2 its prefix was ``ae2.``."""
    prefix = "network." if any(name.startswith("network.") for name in tensors) else "ae2."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
