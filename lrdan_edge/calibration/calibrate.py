"""The calibrate stage: the int8 graph, a threshold per graph, golden images for later checks, and a report."""

import shlex
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.backends.base import Backend
from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.decision import Decision, Golden, ThresholdRule
from lrdan_edge.bundle.encoding import SCHEMA_VERSION, to_json
from lrdan_edge.bundle.files import sha256_of
from lrdan_edge.bundle.names import DECISION, GOLDEN, REPORTS, graph_name, processor_graph_name
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.bundle.stage import Stage
from lrdan_edge.calibration import plots
from lrdan_edge.calibration.choose import Choice, choose
from lrdan_edge.calibration.decision import DEFAULT_FALSE_REJECT_RATE, DEFAULT_RECALL, Wish, decide, parts_note
from lrdan_edge.calibration.fidelity import Yardstick
from lrdan_edge.calibration.images import Intake, Material, gather
from lrdan_edge.calibration.quantise import load_quantisable
from lrdan_edge.calibration.ranges import METHODS, ActivationRange, Method, collect_ranges
from lrdan_edge.calibration.report import CalibrationReport, as_markdown, describe_labels, ranges_of
from lrdan_edge.calibration.scores import score_images
from lrdan_edge.calibration.unsigned import with_unsigned_activations
from lrdan_edge.data.images import Frame
from lrdan_edge.errors import CalibrationError, DataError
from lrdan_edge.evaluation.figure import matplotlib_found

CALIBRATION = f"{REPORTS}/calibration.json"
_GOLDEN_IMAGES = 8

Scores = npt.NDArray[np.float32]
Progress = Callable[[str, float], None]


@dataclass
class _Quantised:
    """What came of int8, for the report."""

    titles: dict[str, str]
    histograms: dict[str, ActivationRange]
    choice: Choice
    compared: dict[str, Scores]
    kernels: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)


def calibrate(
    bundle: Bundle,
    *,
    false_reject_rate: float = DEFAULT_FALSE_REJECT_RATE,
    good: Path | None = None,
    defects: Path | None = None,
    rule: ThresholdRule = "conformal",
    recall: float = DEFAULT_RECALL,
    methods: Collection[Method] = METHODS,
    int8: bool = True,
    progress: Progress | None = None,
) -> Decision:
    """Quantise the graph, and fit each graph's threshold on its own scores of held-out good images.

    Activation ranges come from training images, the choice of method and of layers kept in float from other training images,
    thresholds from held-out ones, so that the promise stays honest.

    Args:
        bundle: An exported bundle.
        false_reject_rate: The share of good parts that may be rejected, in (0, 1).
        good: Folder of good images never trained on, instead of those that training held out.
        defects: Folder of defective images, or one with ``test/good`` and ``test/<defect>``: int8's AUROC is held to fp32's on
            them, and the rules ``best-f1`` and ``recall`` set the threshold by them.
        rule: What sets the threshold; see `Wish`.
        recall: What the rule ``recall`` promises, in (0, 1).
        methods: Calibration methods to choose from.
        int8: Whether to make the int8 graph.
        progress: Called with what is being done and the share of it done, 0 to 1.

    Raises:
        MissingStageError: The bundle has no graphs yet.
        CalibrationError: Too few images for what is asked, scores that are not finite, or no int8 graph within the bounds.
        DataError: Images are gone or cannot be read.
        MissingExtraError: onnx is not installed.
    """
    wish = Wish(rule, false_reject_rate, recall)
    graphs: dict[Precision, Path] = {"fp32": bundle.graph("fp32"), "fp16": bundle.graph("fp16")}
    material = gather(bundle, good, defects, int8=int8)
    wish.require(len(material.held_out), len(material.defects))
    command = _command(wish, good, defects, methods, int8=int8)
    intake = Intake.of(bundle)
    report = progress or (lambda *_: None)
    with bundle.stage(
        "calibrate",
        command=command,
        inputs={graph_name(precision): path for precision, path in graphs.items()},
        options={**wish.options(), "good": str(good) if good else None},
    ) as stage:
        quantised = None
        if int8:
            graphs["int8"] = stage.path(graph_name("int8"))
            quantised = _quantise(graphs, stage.path(processor_graph_name("int8")), material, intake, wish, methods, report)
        started = time.monotonic()
        peaked = not bundle.manifest.scoring.score_is_maximum
        found = {key: _score(path, key, material.held_out, intake, report, peaks=peaked) for key, path in graphs.items()}
        scores = {key: one for key, (one, _) in found.items()}
        used = material.defects if rule != "conformal" else []
        bad = {key: _score(path, key, used, intake, report)[0] for key, path in graphs.items()} if used else {}
        names = [path.name for path in material.held_out]
        decision = Decision(
            schema_version=SCHEMA_VERSION,
            graphs={
                key: decide(scores[key], wish, sha256_of(path), names=names, defects=bad.get(key), peaks=found[key][1])
                for key, path in graphs.items()
            },
        )
        stage.path(DECISION).write_bytes(to_json(decision))
        golden = material.held_out[:_GOLDEN_IMAGES]
        peaks = {key: highest for key, (_, highest) in found.items() if highest is not None}
        _write_golden(stage, golden, intake.load(golden), scores, peaks)
        stage.results["held_out_images"] = len(material.held_out)
        parts = None if good or rule != "conformal" else bundle.manifest.stages["train"].results.get("held_out_groups")
        stage.results["notes"] = parts_note(len(material.held_out), parts, false_reject_rate)
        stage.results["thresholds"] = {key: graph.threshold for key, graph in decision.graphs.items()}
        if quantised:
            quantised.seconds["thresholds"] = time.monotonic() - started
            stage.results["int8"] = _facts(quantised, labelled=bool(material.labelled))
            _write_report(stage, _report(command, material, quantised, scores, decision, false_reject_rate))
    return decision


def _quantise(
    graphs: dict[Precision, Path],
    for_processors: Path,
    material: Material,
    intake: Intake,
    wish: Wish,
    methods: Collection[Method],
    report: Progress,
) -> _Quantised:
    """Choose the int8 graph, and write it and its twin for processors."""
    started = time.monotonic()
    graph = load_quantisable(graphs["fp32"])
    histograms = collect_ranges(graph, material.ranges, intake, lambda share: report("ranges", share))
    ranged = time.monotonic()
    if not material.compared:
        raise CalibrationError(f"{len(material.ranges)} training images are too few to calibrate int8: give more, or --no-int8")
    yardstick = Yardstick(graph.model, material.compared, intake, wish.false_reject_rate, material.labelled)
    choice = choose(
        graph,
        histograms,
        yardstick,
        wish.false_reject_rate,
        methods=methods,
        progress=lambda share: report("methods and layers", share),
    )
    graphs["int8"].write_bytes(choice.model.SerializeToString())
    unsigned = with_unsigned_activations(choice.model).SerializeToString()
    for_processors.write_bytes(unsigned)
    compared = yardstick.pair(choice.model)
    kernels = {}
    for backend in _on_this_processor(unsigned):
        with backend:
            kernels[backend.name] = yardstick.added_by(backend, compared.int8)
    seconds = {"ranges": ranged - started, "methods and layers": time.monotonic() - ranged}
    titles = {tensor: graph.title(tensor) for tensor in histograms}
    return _Quantised(titles, histograms, choice, {"fp32": compared.fp32, "int8": compared.int8}, kernels, seconds)


def _on_this_processor(graph: bytes) -> Iterator[Backend]:
    """What runs an int8 graph by this processor's integer kernels."""
    yield OnnxRuntimeBackend(graph, "int8")
    if find_spec("openvino"):
        from lrdan_edge.backends.openvino import OpenVinoBackend

        yield OpenVinoBackend(graph, "int8")


def _facts(quantised: _Quantised, *, labelled: bool) -> dict[str, Any]:
    choice = quantised.choice
    fidelity = choice.trial.fidelity
    return {
        "method": choice.trial.method,
        "kept_in_float": choice.trial.kept_in_float,
        "layers": len(choice.sensitivities),
        "rank_correlation": fidelity.rank_correlation,
        "verdicts_changed": fidelity.verdicts_changed,
        "labelled": labelled,
        "auroc": fidelity.auroc,
        "auroc_fp32": fidelity.auroc_fp32,
        "instruction_set": processor().instruction_set,
        "kernels_add": quantised.kernels,
    }


def _command(wish: Wish, good: Path | None, defects: Path | None, methods: Collection[Method], *, int8: bool) -> str:
    words = ["lrdan-edge", "calibrate", *wish.arguments()]
    words += ["--good", str(good)] if good else []
    words += ["--defects", str(defects)] if defects else []
    words += [word for method in methods for word in ("--method", method)] if tuple(methods) != METHODS else []
    words += [] if int8 else ["--no-int8"]
    return shlex.join(words)


def _score(
    graph: Path, precision: Precision, images: list[Path], intake: Intake, report: Progress, *, peaks: bool = False
) -> tuple[Scores, Scores | None]:
    """Scores of images, float32 [n], by one graph in floats, whatever this processor is; with `peaks`, their heatmaps' tops too."""
    with OnnxRuntimeBackend(graph.read_bytes(), precision, in_floats=precision == "int8") as backend:
        return score_images(backend, images, intake, lambda share: report(f"{precision} scores", share), peaks=peaks)


def _report(
    command: str,
    material: Material,
    quantised: _Quantised,
    scores: dict[Precision, Scores],
    decision: Decision,
    false_reject_rate: float,
) -> CalibrationReport:
    choice = quantised.choice
    return CalibrationReport(
        command=command,
        images={
            "ranges": len(material.ranges),
            "comparing": len(material.compared),
            "thresholds": len(material.held_out),
            "AUROC": len(material.labelled) or 2 * len(material.compared),
        },
        auroc_on="labelled images" if material.labelled else "good images and the same with a piece of another pasted in",
        labels=describe_labels(material, decision),
        method=choice.trial.method,
        kept_in_float=choice.trial.kept_in_float,
        chosen=choice.trial,
        trials=choice.trials,
        sensitivities=choice.sensitivities,
        ranges=ranges_of(quantised.titles, quantised.histograms, choice),
        scores={key: value.tolist() for key, value in quantised.compared.items()},
        held_out_scores={key: value.tolist() for key, value in scores.items()},
        thresholds={key: graph.threshold for key, graph in decision.graphs.items()},
        false_reject_rate=false_reject_rate,
        instruction_set=processor().instruction_set,
        kernels_add=quantised.kernels,
        seconds={step: round(seconds, 2) for step, seconds in quantised.seconds.items()},
    )


def _write_report(stage: Stage, report: CalibrationReport) -> None:
    stage.path(CALIBRATION).write_bytes(to_json(report))
    stage.path(f"{REPORTS}/calibration.md").write_text(as_markdown(report), encoding="utf-8")
    if matplotlib_found():
        plots.draw_layers(stage.path(f"{REPORTS}/calibration-layers.png"), report)
        plots.draw_scores(stage.path(f"{REPORTS}/calibration-scores.png"), report)


def _write_golden(
    stage: Stage, images: list[Path], frames: Frame, scores: dict[Precision, Scores], peaks: dict[Precision, Scores]
) -> None:
    """Keep a few frames as the graph sees them, and what it says of them, for checks after a build and in the field."""
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
        scores={key: value[: len(names)].tolist() for key, value in scores.items()},
        peaks={key: value[: len(names)].tolist() for key, value in peaks.items()},
    )
    stage.path(f"{GOLDEN}/scores.json").write_bytes(to_json(golden))
