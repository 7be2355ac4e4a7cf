"""Export of the deploy graph: ONNX with preprocessing, AE2 and scoring.

Opset 18 is the newest that the PyTorch exporter writes without conversion; TensorRT 10.3's parser (JetPack 6) supports 9 to 20. See
docs/reference/graph.md.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from lrdan_edge.backends.base import largest_batch
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.names import RECONSTRUCTION, WEIGHTS, graph_name
from lrdan_edge.bundle.spec import ModelSpec, Precision
from lrdan_edge.bundle.stage import Stage
from lrdan_edge.bundle.view import Geometry
from lrdan_edge.data.images import Frame
from lrdan_edge.errors import ExportError, MissingExtraError
from lrdan_edge.export.parity import Parity
from lrdan_edge.export.reference import measure, reference_images, torch_outputs, write_report

if TYPE_CHECKING:
    import onnx
    import torch

    from lrdan_edge.model.deployed import DeployModule

OPSET = 18
GRAPHS: tuple[Precision, ...] = ("fp32", "fp16")


def export(
    bundle: Bundle, *, frame_size: tuple[int, int] | None = None, progress: Callable[[str, float], None] | None = None
) -> None:
    """Write the fp32 and fp16 deploy graphs to the bundle, and compare each with PyTorch on real images.

    The input is ``frames`` uint8 [N, H, W, C]; the outputs are ``score`` float32 [N] and ``heatmap`` float32 [N, h, w]; N is
    the only dynamic axis. In the fp16 graph, sums, scores, the last convolution and as many of the first convolutions as its bound
    needs (`Network.float32_first`) stay in float32. The measured differences are written to ``reports/parity.json`` and ``.md``. A
    third graph computes the reconstruction, for `lrdan_edge.runtime.explain`, if the network makes one.

    Args:
        bundle: A trained bundle.
        frame_size: (rows, columns) of the camera's frames, which the graph then resizes. None: the graph takes frames of the
            size used in training, and others are resized before they enter it.
        progress: Called with the current step and the fraction of all that is done, 0 to 1.

    Raises:
        MissingStageError: The bundle has no weights.
        ExportError: A graph or the frame size is not valid, or a bound of `lrdan_edge.export.parity` is broken.
        MissingExtraError: torch or onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train", "export") from error
    from lrdan_edge.model.deployed import load_network

    weights = bundle.file(WEIGHTS, Command("train"))
    model = _with_frame_size(bundle, frame_size)
    command = str(Command("export", frame_size="{}x{}".format(*frame_size) if frame_size else None))
    options = {"opset": OPSET, "frame_size": frame_size}
    with bundle.stage("export", command=command, inputs={WEIGHTS: weights}, options=options) as stage:
        stage.model = model
        changed = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, model=model))
        report = progress or (lambda *_: None)
        report("reference scores by PyTorch", 0.0)
        reference = reference_images(changed)
        whole = load_network(changed)
        expected = torch_outputs(whole, reference.frames, largest_batch(model.heatmap_shape))
        rows, missing = list[Parity](), list[str]()
        for number, precision in enumerate(GRAPHS, 1):
            report(f"{precision} graph", number / (len(GRAPHS) + 1))
            for first in whole.network.float32_first if precision == "fp16" else (0,):
                module = load_network(changed)
                prepare(module, precision, first)
                graph = to_onnx(module, reference.frames)
                graph.producer_name, graph.producer_version = "lrdan-edge", ""
                data = graph.SerializeToString()
                found = measure(precision, data, reference, expected, bundle.manifest.scoring.unit)
                kept, every = _float32_convolutions(module)
                if not any(row.broken() for row in found[0]) or (whole.network.reconstructs and kept >= every / 2):
                    break  # with more than half of the convolutions in float32, fp16 brings no gain
            stage.path(graph_name(precision)).write_bytes(data)
            rows, missing = rows + found[0], missing + found[1]
            stage.results[precision] = _require_bounds(precision, found[0])
            if precision == "fp16":
                stage.results[precision]["float32_convolutions"] = float(kept)
        write_report(stage, command, reference, expected[0], rows, missing)
        _write_reconstruction(stage, whole, reference.frames)


def _write_reconstruction(stage: Stage, module: "DeployModule", frames: Frame) -> None:
    """Write the graph that computes AE2's reconstruction, if the network makes one; `module` is changed."""
    if not module.network.reconstructs:
        return
    import onnx

    from lrdan_edge.export.reconstruction import ReconstructionModule
    from lrdan_edge.model.folding import fold_batch_norm

    fold_batch_norm(module.network)
    graph = to_onnx(ReconstructionModule(module), frames, outputs=("reconstruction",))
    onnx.save_model(graph, stage.path(RECONSTRUCTION))


def _with_frame_size(bundle: Bundle, frame_size: tuple[int, int] | None) -> ModelSpec:
    """The trained model's specification, for frames of `frame_size` if given."""
    geometry: Geometry | None = bundle.recorded("train", "geometry", Geometry | None)
    model = bundle.manifest.model
    if frame_size:
        canvas, (rows, columns) = (model.height, model.width), frame_size
        try:
            plain = Geometry(frame=frame_size, region=(0, 0, columns, rows), canvas=canvas)
            geometry = geometry.of_frame(rows, columns) if geometry else plain
        except ValueError as error:
            raise ExportError(
                f"frames of {rows}x{columns} are not compatible with this bundle: {error}", "give another {frame_size}"
            ) from error
    return msgspec.structs.replace(model, geometry=geometry)


def _require_bounds(precision: Precision, rows: list[Parity]) -> dict[str, float]:
    """Check the bounds of a graph's rows, and return the largest differences for the manifest."""
    for row in rows:
        if broken := row.broken():
            raise ExportError(
                f"the {precision} graph run by {row.runner} differs from PyTorch: {', '.join(broken)} on {row.images} "
                "images; the weights may overflow this precision",
                "train again, or report this",
            )
    return {"largest_relative_score_difference": max(row.score_max for row in rows), "images": float(rows[0].images)}


def prepare(module: "DeployModule", precision: Precision, first: int = 2) -> None:
    """Prepare a deploy module for export in one precision, in place; parts that the score does not need are removed.

    Args:
        module: The trained module.
        precision: fp32 or fp16.
        first: Number of convolutions at the start of an fp16 graph that stay in float32.
    """
    from lrdan_edge.model.folding import fold_batch_norm

    module.network = module.network.for_scoring(module.source)
    fold_batch_norm(module.network)  # before conversion to half precision, else the weights would be rounded twice
    if precision == "fp16":
        module.network.halve(module, first)


def _float32_convolutions(module: "DeployModule") -> tuple[int, int]:
    """How many convolutions of the network are in float32, and how many there are."""
    import torch
    from torch import nn

    layers = [layer for layer in module.network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    return sum(layer.weight.dtype == torch.float32 for layer in layers), len(layers)


def to_onnx(module: "torch.nn.Module", frames: Frame, outputs: tuple[str, ...] = ("score", "heatmap")) -> "onnx.ModelProto":
    """Export a deploy module in its current precision.

    Args:
        module: `lrdan_edge.model.deployed.DeployModule`, halved for fp16.
        frames: At least one frame, uint8 [N, H, W, C], for its shape.
        outputs: Names of the outputs.

    Returns:
        The graph as `export` describes it, checked.

    Raises:
        ExportError: The exporter returns no graph, or one that is not valid.
    """
    import onnx
    import torch

    # The example has two frames, since the exporter would treat a batch of one as a constant.
    example = torch.from_numpy(np.repeat(frames[:1], 2, axis=0))
    batch = torch.export.Dim("batch", min=1, max=4096)
    with _quiet_exporter():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["frames"],
            output_names=list(outputs),
            dynamic_shapes={"frames": {0: batch}},
            verbose=False,
        )
    if program is None:
        raise ExportError("the PyTorch exporter returned no graph", "report this with your torch version")
    model: onnx.ModelProto = program.model_proto
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    return model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide the exporter's warnings about packages that are not used; errors are still raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
