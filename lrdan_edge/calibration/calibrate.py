"""The calibrate stage: the int8 graph, a threshold per graph, golden images for later checks, and a report."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from msgspec import structs, to_builtins

from lrdan_edge.backends.base import Backend
from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.decision import Decision, Golden, ThresholdRule
from lrdan_edge.bundle.encoding import SCHEMA_VERSION, to_json
from lrdan_edge.bundle.names import DECISION, GOLDEN, REPORTS, graph_name, processor_graph_name
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.bundle.stage import Stage
from lrdan_edge.calibration import plots
from lrdan_edge.calibration.cross import decide_graph
from lrdan_edge.calibration.decision import (
    DEFAULT_FALSE_REJECT_RATE,
    DEFAULT_RECALL,
    FROM_GOOD,
    ThresholdTarget,
    parts_note,
    promise_in_words,
    raised_note,
    reachable_rate,
)
from lrdan_edge.calibration.fidelity import QuantizationEvaluator
from lrdan_edge.calibration.images import (
    CalibrationSplit,
    FrameLoader,
    calibration_split,
    default_rule,
    out_of_fold_for,
    out_of_fold_input,
)
from lrdan_edge.calibration.methods import METHODS, Method
from lrdan_edge.calibration.quantise import load_quantisable
from lrdan_edge.calibration.ranges import ActivationRange, collect_ranges
from lrdan_edge.calibration.report import CalibrationReport, as_markdown, describe_labels, ranges_of
from lrdan_edge.calibration.scores import score_images
from lrdan_edge.calibration.search import SearchResult, search_int8
from lrdan_edge.calibration.unsigned import with_unsigned_activations
from lrdan_edge.data.images import Frame
from lrdan_edge.data.listing import listing_notes
from lrdan_edge.errors import CalibrationError, DataError
from lrdan_edge.evaluation.figure import matplotlib_found
from lrdan_edge.evaluation.usefulness import too_weak
from lrdan_edge.metrics import Recall, recall_above

CALIBRATION = f"{REPORTS}/calibration.json"
_GOLDEN_IMAGES = 8
_FLOAT: tuple[Precision, ...] = ("fp32", "fp16")

Scores = npt.NDArray[np.float32]
Progress = Callable[[str, float], None]


@dataclass
class _Quantised:
    """The result of quantisation, for the report."""

    titles: dict[str, str]
    histograms: dict[str, ActivationRange]
    found: SearchResult
    compared: dict[str, Scores]
    painted: Scores
    kernels: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)


def calibrate(
    bundle: Bundle,
    *,
    false_reject_rate: float | None = None,
    good: Path | None = None,
    defects: Path | None = None,
    rule: ThresholdRule | None = None,
    recall: float = DEFAULT_RECALL,
    methods: Collection[Method] = METHODS,
    int8: bool = True,
    progress: Progress | None = None,
) -> Decision:
    """Quantise the graph, and fit each graph's threshold on its own scores of held-out good images.

    Each image serves only one purpose, so that the promised rate holds: some training images give the activation ranges, others
    select the method and the layers kept in float, and held-out images set the thresholds.

    Args:
        bundle: An exported bundle.
        false_reject_rate: The fraction of good parts that may be rejected, in (0, 1). None: 0.02, or the lowest rate that the images
            can promise; a note then says which.
        good: Folder of good images never trained on, to use instead of those that training held out.
        defects: Folder of defective images, or one with ``test/good`` and ``test/<defect>``: int8 must keep fp32's AUROC on
            them, and the rules ``best-f1`` and ``recall`` use them to set the threshold.
        rule: How the threshold is set; see `ThresholdTarget`. None: `lrdan_edge.calibration.images.default_rule`.
        recall: The fraction of defects that the rule ``recall`` finds, in (0, 1).
        methods: Calibration methods to choose from.
        int8: Whether to make the int8 graph.
        progress: Called with the current step and the fraction of it that is done, 0 to 1.

    Raises:
        MissingStageError: The bundle has no graphs yet.
        CalibrationError: There are too few images for the target, scores are not finite, or no int8 graph is within the bounds.
        DataError: Images are missing or cannot be read.
        MissingExtraError: onnx is not installed.
    """
    rule = rule or default_rule(bundle, good)
    graphs = {precision: bundle.read_graph(precision) for precision in _FLOAT}
    split = replace(calibration_split(bundle, good, defects, int8=int8), out_of_fold=out_of_fold_for(bundle, rule, good))
    target = ThresholdTarget(rule, _rate(false_reject_rate, rule, split.thresholds), recall)
    target.require(split.thresholds, len(split.defects))
    changed = list(methods) if tuple(methods) != METHODS else []
    command = Command("calibrate", **target.command_options(), good=good, defects=defects, method=changed, no_int8=not int8)
    with bundle.stage(
        "calibrate",
        command=str(command),
        inputs={name: bundle.path / name for name in map(graph_name, _FLOAT)} | out_of_fold_input(bundle, target.rule),
        options={**target.options(), "good": str(good) if good else None},
    ) as stage:
        calibration = _Calibration(bundle, split, target, stage, progress or (lambda *_: None))
        quantised = calibration.quantise(graphs, methods) if int8 else None
        decision = calibration.finish(graphs, quantised, command)
        stage.results["held_out_images"] = len(split.held_out)
        int8_record = stage.results.get("int8") if bundle.manifest.model.localises else None
        stage.results["too_weak"] = too_weak(stage.results["recall"], int8_record)
        stage.results["promise"] = promise_in_words(decision.graphs["fp32"])
        unread = [note for folder in (good, defects) if folder for note in listing_notes(folder)]
        chosen = raised_note(split.thresholds, target.false_reject_rate) if false_reject_rate is None else []
        stage.results["notes"] = unread + chosen + (_notes(bundle, split, target) if not good and split.groups is None else [])
        return decision


def _rate(asked: float | None, rule: ThresholdRule, images: int) -> float:
    """The rate asked for, or the usual one, or where the images cannot promise that, the lowest that they can."""
    if asked is not None:
        return asked
    return reachable_rate(images) if rule in FROM_GOOD else DEFAULT_FALSE_REJECT_RATE


def _notes(bundle: Bundle, split: CalibrationSplit, target: ThresholdTarget) -> list[str]:
    """The note about few parts for a bundle of an earlier version, which says how many parts there are, but not which images."""
    parts = bundle.recorded("train", "held_out_groups", int | None) if target.rule == "conformal" else None
    return parts_note(len(split.held_out), parts, target.false_reject_rate)


class _Calibration:
    """A running calibration: its images, target and stage."""

    def __init__(
        self, bundle: Bundle, split: CalibrationSplit, target: ThresholdTarget, stage: Stage, progress: Progress
    ) -> None:
        self._split, self._target, self._stage, self._progress = split, target, stage, progress
        self._loader = FrameLoader.of(bundle)
        self.recalls: dict[Precision, Recall] = {}
        self._with_peaks = not bundle.manifest.scoring.score_is_maximum

    def quantise(self, graphs: dict[Precision, bytes], methods: Collection[Method]) -> _Quantised:
        """Search for the int8 graph, write it and its version for processors, and add it to `graphs`."""
        started = time.monotonic()
        split, rate = self._split, self._target.false_reject_rate
        graph = load_quantisable(graphs["fp32"])
        histograms = collect_ranges(graph, split.ranges, self._loader, lambda fraction: self._progress("ranges", fraction))
        ranged = time.monotonic()
        if not split.compared:
            raise CalibrationError(
                f"{len(split.ranges)} training images are too few to calibrate int8", "give more, or {int8:off}"
            )
        evaluator = QuantizationEvaluator(graph.model, split.compared, self._loader, rate, split.labelled)
        found = search_int8(
            graph,
            histograms,
            evaluator,
            rate,
            methods=methods,
            progress=lambda fraction: self._progress("methods and layers", fraction),
        )
        graphs["int8"] = found.model.SerializeToString()
        self._stage.path(graph_name("int8")).write_bytes(graphs["int8"])
        unsigned = with_unsigned_activations(found.model).SerializeToString()
        self._stage.path(processor_graph_name("int8")).write_bytes(unsigned)
        compared = evaluator.score_pair(found.model)
        kernels = {}
        for backend in _on_this_processor(unsigned):
            with backend:
                kernels[backend.name] = evaluator.kernel_difference(backend, compared.int8)
        seconds = {"ranges": ranged - started, "methods and layers": time.monotonic() - ranged}
        titles = {tensor: graph.title(tensor) for tensor in histograms}
        both = {"fp32": compared.fp32, "int8": compared.int8}
        return _Quantised(titles, histograms, found, both, evaluator.painted_fp32, kernels, seconds)

    def finish(self, graphs: dict[Precision, bytes], quantised: _Quantised | None, command: Command) -> Decision:
        """Set the thresholds, and write the decision and the report."""
        started = time.monotonic()
        decision, scores = self.decide(graphs)
        self._stage.results["thresholds"] = {key: graph.threshold for key, graph in decision.graphs.items()}
        self._stage.results["recall"] = {key: to_builtins(recall) for key, recall in self.recalls.items()}
        if quantised:
            quantised.seconds["thresholds"] = time.monotonic() - started
            painted = recall_above(quantised.painted, decision.graphs["fp32"].threshold)
            record = _record(quantised, labelled=bool(self._split.labelled)) | {"painted_recall": to_builtins(painted)}
            self._stage.results["int8"] = record
            rate = self._target.false_reject_rate
            report = _report(str(command), self._split, quantised, scores, decision, rate)
            promise = promise_in_words(decision.graphs["fp32"])
            _write_report(self._stage, structs.replace(report, recalls=dict(self.recalls), promise=promise))
        return decision

    def decide(self, graphs: dict[Precision, bytes]) -> tuple[Decision, dict[Precision, Scores]]:
        """Score the held-out images with each graph, and write the decision and the golden images with their scores."""
        held_out = self._split.held_out
        found = {key: self._score(graph, key, held_out, with_peaks=self._with_peaks) for key, graph in graphs.items()}
        scores = {key: of_images for key, (of_images, _) in found.items()}
        peaks = {key: of_images for key, (_, of_images) in found.items() if of_images is not None}
        labelled = self._split.defects
        defects = {key: self._score(graph, key, labelled)[0] for key, graph in graphs.items()} if labelled else {}
        names = [path.name for path in held_out]
        decision = Decision(
            schema_version=SCHEMA_VERSION,
            graphs={
                key: decide_graph(
                    scores[key],
                    self._target,
                    sha256(graph).hexdigest(),
                    self._split.out_of_fold,
                    names=names,
                    defects=defects.get(key),
                    peaks=peaks.get(key),
                    groups=self._split.groups,
                )
                for key, graph in graphs.items()
            },
        )
        self._stage.path(DECISION).write_bytes(to_json(decision))
        self.recalls = {key: recall_above(bad, decision.graphs[key].threshold) for key, bad in defects.items()}
        golden = held_out[:_GOLDEN_IMAGES]
        _write_golden(self._stage, golden, self._loader.load(golden), scores, peaks)
        return decision, scores

    def _score(
        self, graph: bytes, precision: Precision, images: list[Path], *, with_peaks: bool = False
    ) -> tuple[Scores, Scores | None]:
        """Score images in floating point, so that every processor gives the same float32 [n]; see `score_images`."""
        with OnnxRuntimeBackend(graph, precision, in_floats=precision == "int8") as backend:
            title = f"{precision} scores"
            return score_images(
                backend, images, self._loader, lambda fraction: self._progress(title, fraction), with_peaks=with_peaks
            )


def _on_this_processor(graph: bytes) -> Iterator[Backend]:
    """The backends that run an int8 graph with this processor's integer kernels."""
    yield OnnxRuntimeBackend(graph, "int8")
    if find_spec("openvino"):
        from lrdan_edge.backends.openvino import OpenVinoBackend

        yield OpenVinoBackend(graph, "int8")


def _record(quantised: _Quantised, *, labelled: bool) -> dict[str, Any]:
    found = quantised.found
    fidelity = found.trial.fidelity
    return {
        "method": found.trial.method,
        "kept_in_float": found.trial.kept_in_float,
        "layers": len(found.sensitivities),
        "rank_correlation": fidelity.rank_correlation,
        "verdicts_changed": fidelity.verdicts_changed,
        "labelled": labelled,
        "auroc": fidelity.auroc,
        "auroc_fp32": fidelity.auroc_fp32,
        "instruction_set": processor().instruction_set,
        "kernels_add": quantised.kernels,
    }


def _report(
    command: str,
    split: CalibrationSplit,
    quantised: _Quantised,
    scores: dict[Precision, Scores],
    decision: Decision,
    false_reject_rate: float,
) -> CalibrationReport:
    found = quantised.found
    return CalibrationReport(
        command=command,
        images={
            "ranges": len(split.ranges),
            "comparing": len(split.compared),
            "thresholds": split.thresholds,
            "AUROC": len(split.labelled) or 2 * len(split.compared),
        },
        auroc_on="labelled images" if split.labelled else "good images and the same images with painted defects",
        labels=describe_labels(split, decision),
        method=found.trial.method,
        kept_in_float=found.trial.kept_in_float,
        chosen=found.trial,
        trials=found.trials,
        sensitivities=found.sensitivities,
        ranges=ranges_of(quantised.titles, quantised.histograms, found),
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
    """Write a few frames with their scores and peaks, to check engines after a build and on the device."""
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
