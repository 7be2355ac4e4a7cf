"""The parity check of an export: every graph and backend against PyTorch in float32, on reference images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lrdan_edge.backends.base import Backend
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import SCHEMA_VERSION, to_json
from lrdan_edge.bundle.names import REPORTS
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.bundle.stage import Stage, versions
from lrdan_edge.data.dataset import recorded_folder, recorded_images, test_images
from lrdan_edge.data.images import Frame, load_frames
from lrdan_edge.errors import BackendError, DataError, MissingExtraError
from lrdan_edge.export.parity import Floats, Parity, ParityReport, as_markdown, compare

if TYPE_CHECKING:
    import torch

_PIXELS = 1 << 23  # pixels of all network images together: some seconds on one core
_FEWEST, _MOST = 8, 96


@dataclass(frozen=True)
class Reference:
    """Images to compare runners on.

    Attributes:
        frames: uint8 [N, H, W, C], as the graph takes them.
        defective: Whether each shows a defect, bool [N], or None without labelled images.
        description: A description of the images.
    """

    frames: Frame
    defective: npt.NDArray[np.bool_] | None
    description: str


def reference_images(bundle: Bundle) -> Reference:
    """Held-out good images and, if available, labelled test images; noise with a fixed random seed if all are missing."""
    model = bundle.manifest.model
    pixels = model.height * model.width * len(model.tile_rows) * len(model.tile_columns)
    count = min(max(_PIXELS // pixels, _FEWEST), _MOST)
    good = _spread([path for path in recorded_images(bundle, "held_out") if path.is_file()], count // 2)
    labelled: list[tuple[Path, bool]] = []
    try:
        images = test_images(recorded_folder(bundle))
        for defective in (False, True):
            paths = [image.path for image in images if image.defective is defective]
            labelled += [(path, defective) for path in _spread(paths, count // 4)]
    except DataError:
        labelled = []  # no test images: only scores and heatmaps are compared
    if not good and not labelled:
        noise = np.random.default_rng(0).integers(0, 256, (_FEWEST, *model.frame_shape)).astype(np.uint8)
        return Reference(noise, None, f"{_FEWEST} frames of noise, since the images that training used are missing")
    labels = [False] * len(good) + [defective for _, defective in labelled]
    description = f"{len(good)} held-out good images"
    if labelled:
        description += f", {len(labelled) - sum(labels)} good and {sum(labels)} defective test images"
    frames = load_frames([*good, *(path for path, _ in labelled)], model.frame_shape, bundle.manifest.preprocessing.bit_depth)
    return Reference(frames, np.array(labels) if labelled else None, description)


def _spread(paths: list[Path], count: int) -> list[Path]:
    """At most `count` paths, evenly spread over the list, to include every kind of defect."""
    places = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [paths[place] for place in places]


def torch_outputs(module: "torch.nn.Module", frames: Frame, batch: int = 8) -> tuple[Floats, Floats]:
    """Scores [N] and heatmaps [N, h, w] of the deploy module, float32, computed `batch` frames at a time."""
    import torch

    with torch.inference_mode():
        parts = [module(part) for part in torch.split(torch.from_numpy(frames), batch)]
    score, heatmap = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return np.asarray(score, np.float32), np.asarray(heatmap, np.float32)


def measure(
    precision: Precision, graph: bytes, reference: Reference, expected: tuple[Floats, Floats], unit: float
) -> tuple[list[Parity], list[str]]:
    """Run a graph with every CPU backend of this machine, and compare it with PyTorch.

    Args:
        precision: The graph's precision.
        graph: The bytes of the ONNX file.
        reference: The images to run it on.
        expected: PyTorch's scores and heatmaps of the images, in float32.
        unit: The unit of scores; see `Scoring.unit`.

    Returns:
        One row per backend, and the reasons why others were not measured.

    Raises:
        BackendError: A backend refuses the graph.
    """
    from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
    from lrdan_edge.backends.openvino import OpenVinoBackend

    rows, missing = [], []
    backends: tuple[type[OnnxRuntimeBackend] | type[OpenVinoBackend], ...] = (OnnxRuntimeBackend, OpenVinoBackend)
    for kind in backends:
        try:
            with kind(graph, precision) as backend:
                actual = _outputs(backend, reference.frames)
        except MissingExtraError as error:
            missing.append(f"{precision} by {kind.name}: {error}")
            continue
        runner = f"{kind.name} {versions()[kind.name]}"
        rows.append(compare(precision, runner, actual, expected, unit=unit, defective=reference.defective))
    return rows, missing


def _outputs(backend: Backend, frames: Frame) -> tuple[Floats, Floats]:
    score, heatmap, _ = backend.infer(frames)
    if heatmap is None:
        raise BackendError(f"the {backend.name} backend returned no heatmap, although one was requested", "report this")
    return score, heatmap


def write_report(
    stage: Stage, command: str, reference: Reference, expected: Floats, rows: list[Parity], missing: list[str]
) -> None:
    """Write ``reports/parity.json`` and ``.md``."""
    report = ParityReport(
        schema_version=SCHEMA_VERSION,
        command=command,
        reference="PyTorch in float32",
        images=reference.description,
        score_quantiles=[float(value) for value in np.quantile(expected, (0, 0.25, 0.5, 0.75, 1))],
        rows=rows,
        not_measured=missing,
        versions=versions(),
    )
    stage.path(f"{REPORTS}/parity.json").write_bytes(to_json(report))
    stage.path(f"{REPORTS}/parity.md").write_text(as_markdown(report), encoding="utf-8")
