"""Weights to deploy graph: ONNX with preprocessing, AE2 and scoring inside.

Opset 18 is the newest the PyTorch exporter writes without conversion and well within what TensorRT 10.3 (JetPack 6) parses.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle import WEIGHTS, Bundle, graph_name
from lrdan_edge.dataset import recorded_images
from lrdan_edge.errors import ExportError, MissingExtraError
from lrdan_edge.export.simplify import drop_unused_channels
from lrdan_edge.images import Frame, load_frames
from lrdan_edge.manifest import Precision
from lrdan_edge.runtime.golden import relative_difference

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 18
SCORE_TOLERANCE = {"fp32": 1e-4, "fp16": 3e-2}
"""Largest difference of a score between PyTorch (float32) and the graph run by ONNX Runtime, as `relative_difference`."""

_CHECK_IMAGES = 8


def export(bundle: Bundle) -> None:
    """Write the fp32 and the fp16 deploy graph into the bundle, checked against PyTorch on real images.

    The input is ``frames`` uint8 [N, H, W, C]; the outputs are ``score`` float32 [N] and ``heatmap`` float32 [N, H, W]; N is
    the only dynamic axis. The fp16 graph is the half-precision module exported as it is, sums and score in float32.

    Args:
        bundle: A trained bundle.

    Raises:
        MissingStageError: The bundle has no weights.
        ExportError: A graph is invalid or its scores leave `SCORE_TOLERANCE`.
        MissingExtraError: torch or onnx is not installed.
    """
    try:
        import onnx
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train", "export") from error
    from lrdan_edge.train.scoring import load_ae2

    weights = bundle.file(WEIGHTS, "lrdan-edge train")
    frames = _reference_frames(bundle)
    with bundle.stage("export", command="lrdan-edge export", inputs={WEIGHTS: weights}, options={"opset": OPSET}) as stage:
        expected = _torch_scores(load_ae2(bundle), frames)
        for precision in ("fp32", "fp16"):
            module = load_ae2(bundle)
            fold_batch_norm(module.ae2)  # before halving: folded in half precision, the weights would be rounded twice
            if precision == "fp16":
                module.half()
            model = to_onnx(module, frames)
            model.producer_name, model.producer_version = "lrdan-edge", ""
            path = stage.path(graph_name(precision))
            onnx.save_model(model, path)
            stage.results[precision] = _check_scores(path, precision, frames, expected, bundle.manifest.scoring.unit)


def fold_batch_norm(network: "torch.nn.Module") -> None:
    """Fold every batch normalisation into the convolution before it, in place and in float32.

    Args:
        network: AE2 in evaluation mode; it computes the same afterwards.
    """
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for layers in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for place in range(len(layers) - 1):
            convolution, norm = layers[place], layers[place + 1]
            if isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                transposed = isinstance(convolution, nn.ConvTranspose2d)
                layers[place] = fuse_conv_bn_eval(convolution, norm, transpose=transposed)
                layers[place + 1] = nn.Identity()


def _reference_frames(bundle: Bundle) -> Frame:
    """A few frames to compare backends on: held-out good images, or seeded noise where those are gone.

    Returns:
        uint8 [N, H, W, C].
    """
    paths = recorded_images(bundle, "held_out")[:_CHECK_IMAGES]
    if all(path.is_file() for path in paths):
        return load_frames(paths, bundle.manifest.model.frame_shape)
    noise = np.random.default_rng(0).integers(0, 256, (_CHECK_IMAGES, *bundle.manifest.model.frame_shape))
    return noise.astype(np.uint8)


def _torch_scores(module: "torch.nn.Module", frames: Frame) -> npt.NDArray[np.float32]:
    import torch

    with torch.inference_mode():
        score, _ = module(torch.from_numpy(frames))
    return np.asarray(score.numpy(), dtype=np.float32)


def to_onnx(module: "torch.nn.Module", frames: Frame) -> "onnx.ModelProto":
    """Export a deploy module in the precision it has.

    Args:
        module: `lrdan_edge.train.scoring.DeployModule`, halved for fp16.
        frames: At least one frame, uint8 [N, H, W, C], for its shape.

    Returns:
        The graph as `export` describes it, checked.

    Raises:
        ExportError: The exporter gives none, or one that is not valid.
    """
    import onnx
    import torch

    # Two frames in the example, so that the exporter does not take a batch of one for a constant.
    example = torch.from_numpy(np.repeat(frames[:1], 2, axis=0))
    batch = torch.export.Dim("batch", min=1, max=4096)
    with _quiet_exporter():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["frames"],
            output_names=["score", "heatmap"],
            dynamic_shapes={"frames": {0: batch}},
            verbose=False,
        )
    if program is None:
        raise ExportError("the PyTorch exporter returned no graph: report this with your torch version")
    model: onnx.ModelProto = program.model_proto
    drop_unused_channels(model.graph)
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    return model


def _check_scores(
    path: Path, precision: Precision, frames: Frame, expected: npt.NDArray[np.float32], unit: float
) -> dict[str, float]:
    from lrdan_edge.runtime.backends.onnxruntime import OnnxRuntimeBackend

    with OnnxRuntimeBackend(path.read_bytes(), precision) as backend:
        actual = backend.infer(frames, heatmap=False).score
    worst = relative_difference(actual, expected, unit)
    if not worst <= SCORE_TOLERANCE[precision]:
        raise ExportError(
            f"the {precision} graph's scores differ from PyTorch's by {worst:.2e} (bound {SCORE_TOLERANCE[precision]:.0e}): "
            "the weights may overflow this precision; train again, or report this"
        )
    return {"largest_relative_score_difference": worst, "images": float(len(frames))}


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's notes about packages we do not use off the user's screen; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
