"""Thresholds for the graphs and engines that run on this device; needs only the base installation."""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from lrdan_edge.backends.base import Backend
from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.decision import Decision, GraphDecision, ThresholdRule
from lrdan_edge.bundle.encoding import SCHEMA_VERSION, to_json
from lrdan_edge.bundle.names import DECISION, ENGINES, decide_stage, engine_decision_name, graph_name
from lrdan_edge.bundle.out_of_fold import OutOfFold
from lrdan_edge.bundle.spec import PRECISIONS, Precision
from lrdan_edge.bundle.stage import Stage
from lrdan_edge.calibration.calibrate import Progress
from lrdan_edge.calibration.cross import decide_graph
from lrdan_edge.calibration.decision import FROM_GOOD, Scores, ThresholdTarget
from lrdan_edge.calibration.images import (
    FrameLoader,
    groups_of,
    labelled_images,
    out_of_fold_for,
    out_of_fold_input,
    recorded,
    threshold_images,
)
from lrdan_edge.calibration.scores import score_images
from lrdan_edge.engines.golden import golden_frames
from lrdan_edge.engines.open import Engine, engines, open_engine, sidecar_of


@dataclass(frozen=True)
class FittedThresholds:
    """The thresholds set by `fit_thresholds`.

    Attributes:
        graphs: The graphs' decisions, by precision.
        engines: The decisions of engines, by file name.
        skipped: Engines that do not run here, with the reason.
    """

    graphs: dict[Precision, GraphDecision]
    engines: dict[str, GraphDecision]
    skipped: list[str]


def last_target(bundle: Bundle, good: Path | None = None) -> ThresholdTarget:
    """The target of a bundle's current thresholds, to keep it when they are set again.

    Args:
        bundle: A calibrated bundle.
        good: Folder of other good images to set them with: ``conformal`` then takes the place of ``cross-fitted``.

    Raises:
        MissingStageError: The bundle is not calibrated.
    """
    bundle.decision()
    stages = bundle.manifest.stages
    made = next((name for name in ("decide",) if name in stages and DECISION in stages[name].outputs), "calibrate")
    rule: ThresholdRule = bundle.recorded(made, "rule", ThresholdRule, option=True)
    rule = "conformal" if good and rule == "cross-fitted" else rule
    rate: float = bundle.recorded(made, "false_reject_rate", float, option=True)
    return ThresholdTarget(rule, rate, bundle.recorded(made, "recall", float, ThresholdTarget().recall, option=True))


def fit_thresholds(
    bundle: Bundle,
    target: ThresholdTarget,
    *,
    good: Path | None = None,
    defects: Path | None = None,
    progress: Progress | None = None,
) -> FittedThresholds:
    """Set the threshold of every graph again, and one for every engine that runs here.

    Engines round differently from the graph they were built from. So the promised rate holds for an engine only with a threshold
    fitted on its own scores. `lrdan_edge.runtime.inspector.Inspector` uses that threshold.

    Args:
        bundle: A calibrated bundle.
        target: The threshold target.
        good: Folder of good images never trained on, such as images of this camera; None for those that training held out.
        defects: Folder of defective images, if the rule needs them.
        progress: Called with the current step and the fraction of it that is done, 0 to 1.

    Raises:
        MissingStageError: The bundle is not calibrated.
        CalibrationError: The target cannot be reached.
        DataError: Images are missing or cannot be read.
        EngineError: An engine that should run here does not load.
    """
    before = bundle.decision()
    held_out = threshold_images(bundle, good) if good else recorded(bundle, "held_out")
    bad = labelled_images(defects)[0] if defects and target.rule not in FROM_GOOD else []
    pooled = out_of_fold_for(bundle, target.rule, good)
    target.require(len(pooled.images if pooled else held_out), len(bad))
    command = Command("calibrate", decision_only=True, **target.command_options(), good=good, defects=defects)
    groups = groups_of(bundle, held_out, good)
    fit = _Fit(bundle, target, held_out, groups, bad, pooled, str(command), progress or (lambda *_: None), time.monotonic())
    found = engines(bundle)
    graphs = {key: fit.graph(key) for key in PRECISIONS if key in before.graphs}
    own = {engine.name: fit.engine(engine) for engine in found if not engine.unusable_reason}
    fit.write_graphs(graphs)  # only now: if one engine cannot reach the target, no threshold changes
    for name, decided in own.items():
        fit.write_engine(name, decided)
    return FittedThresholds(
        graphs, own, [f"{engine.name}: {engine.unusable_reason}" for engine in found if engine.unusable_reason]
    )


@dataclass(frozen=True)
class _Fit:
    """A target, the images for setting thresholds, and the bundle for the results."""

    bundle: Bundle
    target: ThresholdTarget
    good: list[Path]
    groups: list[int] | None
    bad: list[Path]
    out_of_fold: OutOfFold | None
    command: str
    report: Progress
    started: float

    def graph(self, precision: Precision) -> GraphDecision:
        with OnnxRuntimeBackend(self.bundle.read_processor_graph(precision), precision) as backend:
            return self._decide(backend, self.bundle.manifest.files[graph_name(precision)].sha256, None)

    def engine(self, engine: Engine) -> GraphDecision:
        with open_engine(self.bundle, engine) as backend:
            return self._decide(backend, engine.sidecar.graph_sha256, engine.sidecar.engine_sha256)

    def write_graphs(self, decided: dict[Precision, GraphDecision]) -> None:
        inputs = {graph_name(key): self.bundle.path / graph_name(key) for key in decided} | out_of_fold_input(
            self.bundle, self.target.rule
        )
        with self._stage("decide", inputs) as stage:
            stage.path(DECISION).write_bytes(
                to_json(Decision(schema_version=SCHEMA_VERSION, graphs={str(key): graph for key, graph in decided.items()}))
            )
            stage.results["thresholds"] = {key: graph.threshold for key, graph in decided.items()}

    def write_engine(self, name: str, decided: GraphDecision) -> None:
        # The graphs' decision is an input: when it is set again, the engine's target may differ, so the engine's becomes stale.
        inputs = {key: self.bundle.path / key for key in (f"{ENGINES}/{name}", sidecar_of(name), DECISION)}
        with self._stage(decide_stage(name), inputs) as stage:
            stage.path(engine_decision_name(name)).write_bytes(to_json(decided))
            stage.results["threshold"] = decided.threshold

    def _decide(self, backend: Backend, graph_sha256: str, engine_sha256: str | None) -> GraphDecision:
        good, peaks = self._scores(backend, self.good, with_peaks=not self.bundle.manifest.scoring.score_is_maximum)
        return decide_graph(
            good,
            self.target,
            graph_sha256,
            self.out_of_fold,
            names=[path.name for path in self.good],
            defects=self._scores(backend, self.bad)[0] if self.bad else None,
            engine_sha256=engine_sha256,
            peaks=peaks,
            groups=self.groups,
            golden=backend.infer(golden_frames(self.bundle), heatmap=False).score,
        )

    def _scores(self, backend: Backend, images: list[Path], *, with_peaks: bool = False) -> tuple[Scores, Scores | None]:
        title = f"{backend.name} {backend.spec.precision} scores"
        return score_images(
            backend, images, FrameLoader.of(self.bundle), lambda fraction: self.report(title, fraction), with_peaks=with_peaks
        )

    def _stage(self, name: str, inputs: dict[str, Path]) -> AbstractContextManager[Stage]:
        options = {**self.target.options(), "images": len(self.good)}
        return self.bundle.stage(name, command=self.command, inputs=inputs, options=options, started=self.started)
