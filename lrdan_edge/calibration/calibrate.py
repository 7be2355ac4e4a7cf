"""The calibrate stage: the int8 graph, a threshold per graph, and golden images for later checks."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle import DECISION, GOLDEN, Bundle, Stage, graph_name, sha256_of
from lrdan_edge.calibration.decision import decide, require_enough
from lrdan_edge.calibration.quantise import quantise
from lrdan_edge.dataset import recorded_images
from lrdan_edge.errors import DataError
from lrdan_edge.images import Frame, batches, list_images, load_frames
from lrdan_edge.manifest import SCHEMA_VERSION, Decision, Golden, Precision, to_json
from lrdan_edge.runtime.backends.onnxruntime import OnnxRuntimeBackend

DEFAULT_FALSE_REJECT_RATE = 0.02
_RANGE_IMAGES = 128
_GOLDEN_IMAGES = 8
_BATCH = 16

Scores = npt.NDArray[np.float32]


def calibrate(bundle: Bundle, *, false_reject_rate: float = DEFAULT_FALSE_REJECT_RATE, good: Path | None = None) -> Decision:
    """Quantise the graph, and fit each graph's threshold on its own scores of held-out good images.

    Activation ranges come from training images, thresholds from held-out ones, so that the promise stays honest.

    Args:
        bundle: An exported bundle.
        false_reject_rate: The promised share of good parts rejected, in (0, 1).
        good: Folder of good images never trained on, instead of those that training held out.

    Raises:
        MissingStageError: The bundle has no graphs yet.
        CalibrationError: Too few held-out images for the rate, or scores that are not finite.
        DataError: Images are gone or cannot be read.
    """
    graphs: dict[Precision, Path] = {"fp32": bundle.graph("fp32"), "fp16": bundle.graph("fp16")}
    held_out = list_images(good) if good else _recorded(bundle, "held_out")
    require_enough(len(held_out), false_reject_rate)
    training = _recorded(bundle, "training")
    shape, bit_depth = bundle.manifest.model.frame_shape, bundle.manifest.preprocessing.bit_depth
    with bundle.stage(
        "calibrate",
        command=_command(false_reject_rate, good),
        inputs={graph_name(precision): path for precision, path in graphs.items()},
        options={"false_reject_rate": false_reject_rate, "good": str(good) if good else None},
    ) as stage:
        graphs["int8"] = stage.path(graph_name("int8"))
        spread = training[:: max(1, len(training) // _RANGE_IMAGES)][:_RANGE_IMAGES]
        stage.results["int8"] = quantise(graphs["fp32"], graphs["int8"], spread, shape, bit_depth)
        scores = {precision: _score(path, precision, held_out, shape, bit_depth) for precision, path in graphs.items()}
        decision = Decision(
            schema_version=SCHEMA_VERSION,
            graphs={key: decide(scores[key], false_reject_rate, sha256_of(path)) for key, path in graphs.items()},
        )
        stage.path(DECISION).write_bytes(to_json(decision))
        frames = load_frames(held_out[:_GOLDEN_IMAGES], shape, bit_depth)
        _write_golden(stage, held_out[:_GOLDEN_IMAGES], frames, scores)
        stage.results["held_out_images"] = len(held_out)
        stage.results["thresholds"] = {key: graph.threshold for key, graph in decision.graphs.items()}
        stage.results["rank_correlation_int8_fp32"] = _rank_correlation(scores["fp32"], scores["int8"])
    return decision


def _recorded(bundle: Bundle, part: Literal["training", "held_out"]) -> list[Path]:
    paths = recorded_images(bundle, part)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(paths)} {part.replace('_', '-')} images that training used are gone ({missing[0]}): "
            "bring them back to where they were" + (", or give others with --good DIR" if part == "held_out" else "")
        )
    return paths


def _command(false_reject_rate: float, good: Path | None) -> str:
    command = f"lrdan-edge calibrate --false-reject-rate {false_reject_rate:g}"
    return command if good is None else f"{command} --good {good}"


def _score(graph: Path, precision: Precision, images: list[Path], shape: tuple[int, int, int], bit_depth: int) -> Scores:
    """Scores of images, float32 [n], by one graph."""
    with OnnxRuntimeBackend(graph.read_bytes(), precision) as backend:
        parts = batches(images, shape, _BATCH, bit_depth)
        return np.concatenate([backend.infer(frames, heatmap=False).score for frames in parts])


def _write_golden(stage: Stage, images: list[Path], frames: Frame, scores: dict[Precision, Scores]) -> None:
    """Keep a few frames as the graph sees them, and their scores, for checks after a build and in the field."""
    names = []
    for index, frame in enumerate(frames):
        names.append(f"{index:02d}.png")
        encoded, data = cv2.imencode(".png", frame)
        if not encoded:
            raise DataError(f"{images[index]} cannot be written as PNG: check its contents")
        stage.path(f"{GOLDEN}/{names[-1]}").write_bytes(data.tobytes())
    golden = Golden(
        schema_version=SCHEMA_VERSION,
        images=names,
        scores={key: [float(score) for score in value[: len(names)]] for key, value in scores.items()},
    )
    stage.path(f"{GOLDEN}/scores.json").write_bytes(to_json(golden))


def _rank_correlation(first: Scores, second: Scores) -> float:
    """Spearman's rank correlation of two score vectors, in [-1, 1]."""
    ranks = [np.argsort(np.argsort(scores)).astype(np.float64) for scores in (first, second)]
    return float(np.corrcoef(ranks)[0, 1])
