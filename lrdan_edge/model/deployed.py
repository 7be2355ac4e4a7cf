"""What is deployed: preprocessing, AE2 and the scoring head as one module, the deploy graph in PyTorch."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.names import WEIGHTS
from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.errors import BundleError
from lrdan_edge.model.networks import Autoencoder, Marker, Restorer, ae2_for
from lrdan_edge.model.precision import Float32Module
from lrdan_edge.model.tiling import Tile, Untile

MapSource = Literal["error", "defects"]

LEAST_CONTRAST = 0.06  # of a range of 2; added to an image's deviation before dividing by it
SAMPLING_STEP = 4  # pixels
CONTEXT_WINDOW = 0.5  # of each side
CONTEXT_FRACTION = 0.01  # this fraction of defective pixels in the window doubles the odds of a pixel
CONTEXT_CELLS = 16  # along a side: the average over so wide a window changes slowly
LEAST_SIGMA = 0.1  # pixels; below it the Gaussian's neighbours weigh nothing


class ScoringHead(Float32Module):
    """From an anomaly map (AE2's error, or the defects it marks) to score and heatmap; in float32.

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
            scoring: What to do.
            error_mean: The good images' mean map, float32 [H, W] of ``spec.heatmap_shape``.
            error_std: Its standard deviation, likewise.

        Raises:
            BundleError: The constants are not of the images' size.
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
            heat: The map, float32 [N, 1, H, W]; see `anomaly_map`.

        Returns:
            Score float32 [N] and heatmap float32 [N, H, W]; higher is more anomalous.
        """
        if self.normalise:
            heat = (heat - self.error_mean) / self.error_deviation
        heat = smooth(heat, self.kernel).squeeze(1)  # OpenVINO adds over the last axis: the channels, where there are any
        gain = self.nearby(heat) if self.nearby else None
        if self.adds_area_term:
            heat = heat + area_term(heat)
        if self.pooling == "rms":
            score = heat.square().mean((1, 2)).sqrt()
        else:
            score = heat.amax((1, 2)) if self.pooling == "max" else heat.mean((1, 2))
        return score, (heat if gain is None else heat + gain)


class DeployModule(nn.Module):
    """The deploy graph: frames as a camera gives them in, score and heatmap out. Always in evaluation mode."""

    def __init__(
        self,
        ae2: Autoencoder | Restorer | Marker,
        head: ScoringHead,
        preprocessing: Preprocessing,
        source: MapSource,
        spec: ModelSpec | None = None,
    ) -> None:
        """Put together.

        Args:
            ae2: The network.
            head: What turns its map into a score.
            preprocessing: What happens to the networks' images first.
            source: What the map shows; see `Scoring`.
            spec: The network's shape, where it has a geometry; None: a frame is an image.
        """
        super().__init__()
        self.ae2, self.head, self.source, self.preprocessing = ae2, head, source, preprocessing
        geometry = spec.geometry if spec else None
        # The attributes' names are those of the graph's initialisers: calibration looks for them, also in graphs of earlier versions.
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
        # TensorRT takes uint8 into a cast and nowhere else, so the cast comes first. The arithmetic stays in float32 (a
        # grey level is not exact in half precision after scaling); only AE2 works in its own precision.
        x = frames.float().permute(0, 3, 1, 2)
        x = preprocess(self.cut(x) if self.cut else x, self.preprocessing)
        heat = anomaly_map(x, self.ae2, self.source)
        score, heatmap = self.head(self.stitch(heat) if self.stitch else heat)
        return score, heatmap


def preprocess(frames: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Frames as the networks see them: float32 [N, C, H, W] in [0, 255] to float32 [N, C, H, W]."""
    if preprocessing.standardise:  # scale and offset cancel, except in the unit of the least contrast: two operations less
        mean, deviation = standardisation(frames, LEAST_CONTRAST / preprocessing.scale)
        return (frames - mean) / deviation
    return frames * preprocessing.scale + preprocessing.offset


def standardisation(x: Tensor, least: float = LEAST_CONTRAST) -> tuple[Tensor, Tensor]:
    """Each image's mean, and its deviation plus `least` (so that a blank image stays blank), both float32 [N, 1, 1, 1]."""
    mean = image_mean(x)
    centred = x - mean  # a product: ONNX has no square, only a general, slow power
    return mean, image_mean(centred * centred).sqrt() + least


def image_mean(x: Tensor) -> Tensor:
    """Each image's mean, [N, 1, 1, 1] of [N, C, H, W], as the mean of its rows' means.

    Inference engines add values one after another; over a whole image they lost three digits. The flattening between the two means
    keeps engines from fusing them into one sum.
    """
    return x.mean(3).flatten(1).mean(1).reshape(-1, 1, 1, 1)


def anomaly_map(x: Tensor, ae2: Autoencoder | Restorer | Marker, source: MapSource) -> Tensor:
    """What is scored.

    Args:
        x: Images, float32 [N, C, H, W].
        ae2: The network, in any precision.
        source: Which of its outputs to take.

    Returns:
        The mean over channels of |x − x''|, or the log-odds of a defect as `Restorer.marks` gives them: float32 [N, 1, H, W].

    Raises:
        BundleError: An autoencoder is to mark defects.
    """
    seen = x.to(next(ae2.parameters()).dtype)
    if isinstance(ae2, Marker) or (isinstance(ae2, Restorer) and source == "defects"):
        return ae2.marks(seen)
    if source == "defects":
        raise BundleError(
            "scoring.source is defects, but an autoencoder marks none",
            "run '{command}' again",
            command=Command("train", overwrite=True),
        )
    reconstruction: Tensor = ae2(seen)[0]
    return (x - reconstruction.float()).abs().mean(1, keepdim=True)


def sampled_probabilities(heat: Tensor) -> Tensor:
    """The probabilities of log-odds float32 [N, H, W] at every fourth row and column: float32 [N, h, w].

    For a mean they are as good as all of them, since defects are many pixels wide, and they cost almost nothing.
    """
    first, step = SAMPLING_STEP // 2, SAMPLING_STEP
    return torch.sigmoid(heat[:, first::step, first::step])


def area_term(heat: Tensor) -> Tensor:
    """The log of the defective fraction of each image, from log-odds float32 [N, H, W]: float32 [N, 1, 1].

    It tells a large, faint defect from a small, faint mark. One pixel is added, so that the logarithm of 0 is never taken.
    """
    fraction = image_mean(sampled_probabilities(heat)[:, None]).squeeze(1)
    return torch.log(fraction + 1 / (heat.shape[-2] * heat.shape[-1]))


class ContextGain(Float32Module):
    """What the log-odds of a pixel gain from the defective fraction f of its context: log(1 + f / 0.01).

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
        """Gains, float32 [N, H, W] from 0 to log(101), by log-odds float32 [N, H, W]."""
        fraction = self.rows @ sampled_probabilities(heat) @ self.columns
        gain: Tensor = self.to_rows @ torch.log(1 + fraction / CONTEXT_FRACTION) @ self.to_columns
        return gain


def _context_weights(side: int) -> tuple[Tensor, Tensor]:
    """Along one axis: averages of sampled places around each cell, [cells, places], and pixels between cells, [side, cells]."""
    places = torch.arange(SAMPLING_STEP // 2, side, SAMPLING_STEP)
    centres = (torch.arange(CONTEXT_CELLS) + 0.5) * side / CONTEXT_CELLS - 0.5
    near = ((centres[:, None] - places).abs() <= CONTEXT_WINDOW / 2 * side).float()
    steps = (torch.arange(side)[:, None] - centres) * CONTEXT_CELLS / side
    tents = (1 - steps.abs()).clamp_min(0)  # beyond the first and the last centre only one is left, with weight 1
    return near / near.sum(1, keepdim=True), tents / tents.sum(1, keepdim=True)


def gaussian_kernel(sigma: float, side: int) -> Tensor:
    """A normalised Gaussian, float32 [2r + 1], r about 2.5 sigma and less than `side`; [1] for a sigma too small to smooth."""
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


def load_ae2(bundle: Bundle, device: str = "cpu") -> DeployModule:
    """Rebuild the deploy module from the bundle's weights.

    Args:
        bundle: A trained bundle.
        device: A torch device.

    Raises:
        MissingStageError: The bundle is not trained.
        ChangedFileError: The weights are not the manifest's.
        BundleError: The weights do not match the manifest's model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path, data = bundle.path / WEIGHTS, bundle.read(WEIGHTS, Command("train"))
    spec = bundle.manifest.model
    try:
        tensors = load(data)
        ae2 = ae2_for(spec)
        ae2.load_state_dict({name.removeprefix("ae2."): tensor for name, tensor in tensors.items() if name.startswith("ae2.")})
        mean, deviation = tensors["scoring.error_mean"], tensors["scoring.error_std"]
    except (SafetensorError, RuntimeError, LookupError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(
            f"{path} does not match the model in the manifest ({reason})",
            "run '{command}' again",
            command=Command("train", overwrite=True),
        ) from error
    head = ScoringHead(spec, bundle.manifest.scoring, mean, deviation)
    return DeployModule(ae2, head, bundle.manifest.preprocessing, bundle.manifest.scoring.source, spec).to(device)
