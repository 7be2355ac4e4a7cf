"""Inspects and reconstructs images, and writes the page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrdan_edge.backends.onnxruntime import session_options
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.decision import GraphDecision
from lrdan_edge.bundle.names import RECONSTRUCTION
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.data.images import Frame, fit_frame, list_images, read_with_form, region_of
from lrdan_edge.errors import BackendError, DataError
from lrdan_edge.runtime.explain.page import Explained, PageContext, as_html
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.unlike import UnlikeCounts

MOST = 200  # images on one page, up to some hundred kilobytes each
_BATCH = 16


@dataclass(frozen=True)
class Page:
    """A page that was written.

    Attributes:
        path: The file.
        images: Number of images on it.
        rejected: Number of rejected images among them.
        graph: The backend and graph that inspected them.
        notes: How the images differ from the training images, one sentence per kind of difference.
    """

    path: Path
    images: int
    rejected: int
    graph: str
    notes: list[str] = field(default_factory=list)


def explain(
    bundle: Bundle,
    images: Sequence[Path],
    output: Path,
    *,
    backend: str = "auto",
    precision: Precision | None = None,
    threshold: float | None = None,
) -> Page:
    """Write a page that shows, for each image, its reconstruction and difference (if the network reconstructs), its heatmap and its score.

    Args:
        bundle: A calibrated bundle.
        images: Image files, or folders of them.
        output: The page, HTML; replaced if it exists.
        backend: See `Inspector.open`.
        precision: See `Inspector.open`.
        threshold: See `Inspector.open`.

    Raises:
        MissingStageError: A stage has not run.
        DataError: There is no image, there are too many, or the page cannot be written.
        BackendError: The requested backend is not available, or the reconstruction fails.
        MissingExtraError: Jinja2 is not installed.
    """
    paths = [path for given in images for path in (list_images(given) if given.is_dir() else [given])]
    if len(paths) > MOST:
        raise DataError(f"{len(paths)} images are too many for one page, at most {MOST} are allowed", "give fewer images")
    exported = bundle.manifest.stages.get("export")
    reconstructs = exported is None or RECONSTRUCTION in exported.outputs
    session = _Session(bundle.read(RECONSTRUCTION, Command("export"))) if reconstructs else None
    with Inspector.open(bundle, backend=backend, precision=precision, threshold=threshold) as inspector:
        decision, scoring = inspector.thresholder.decision, bundle.manifest.scoring
        page = PageContext(
            bundle=str(bundle.path),
            graph=inspector.choice.title,
            threshold=inspector.thresholder.threshold,
            promise=_promise(decision) if threshold is None else "given by the user",
            good_scores=decision.good_scores,
            pooling=scoring.pooling,
            contour=inspector.thresholder.threshold if scoring.score_is_maximum else decision.pixel_threshold,
            context_gain=scoring.nearby,
            source=scoring.source,
            reconstructs=reconstructs,
        )
        explained: list[Explained] = []
        counts = UnlikeCounts()
        for start in range(0, len(paths), _BATCH):
            explained += _explain_batch(inspector, session, paths[start : start + _BATCH], counts)
    try:
        output.write_bytes(as_html(page, explained).encode("utf-8", "replace"))  # file names need not be UTF-8
    except OSError as error:
        raise DataError(f"{output} cannot be written ({error.strerror})", "choose another {output}") from error
    return Page(output, len(explained), sum(one.verdict.outcome == "reject" for one in explained), page.graph, counts.notes())


def _promise(decision: GraphDecision) -> str:
    counted = f"{decision.n} held-out good images"
    if decision.rule == "conformal":
        return f"at most {decision.false_reject_rate:.3g} of good parts rejected, from {counted}"
    if decision.rule == "cross-fitted":
        return f"about {decision.false_reject_rate:.3g} of good parts rejected, from {decision.n} good images in {decision.folds} folds"
    defects = f"{len(decision.defect_scores)} labelled defects"
    if decision.rule == "recall":
        return f"at least {decision.recall:.3g} of defective parts rejected, from {defects}"
    return f"the best F1 on {counted} and {defects}; nothing is promised"


def _explain_batch(
    inspector: Inspector, session: "_Session | None", paths: Sequence[Path], counts: UnlikeCounts
) -> list[Explained]:
    spec = inspector.bundle.manifest.model
    frames: list[Frame | None] = []
    reasons: dict[int, str] = {}
    for index, path in enumerate(paths):
        try:
            image, form = read_with_form(path, inspector.bit_depth)
            if wrong := counts.add(inspector.frame_check.check(form)):
                raise DataError(wrong)
            frames.append(fit_frame(image, spec.frame_shape))
        except DataError as error:
            frames.append(None)
            reasons[index] = str(error)
    verdicts = inspector.inspect(frames)
    readable = [frame for frame in frames if frame is not None]
    reconstructions = iter(session(np.stack(readable)) if session and readable else ())
    explained = []
    for index, (path, frame, verdict) in enumerate(zip(paths, frames, verdicts, strict=True)):
        if frame is None:
            explained.append(Explained(path.name, None, None, inspector.thresholder.fault(reasons[index])))
        else:
            explained.append(Explained(path.name, region_of(frame, spec), next(reconstructions, None), verdict))
    return explained


class _Session:
    """The reconstruction graph in ONNX Runtime."""

    def __init__(self, graph: bytes) -> None:
        import onnxruntime as ort

        try:
            self._session = ort.InferenceSession(graph, session_options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise BackendError(f"ONNX Runtime cannot load {RECONSTRUCTION}: {error}") from error

    def __call__(self, frames: Frame) -> npt.NDArray[np.float32]:
        """Reconstruct frames uint8 [N, H, W, C]; returns float32 [N, H, W, C] in grey levels."""
        try:
            return np.asarray(self._session.run(["reconstruction"], {"frames": frames})[0], np.float32)
        except Exception as error:
            raise BackendError(f"ONNX Runtime cannot run {RECONSTRUCTION} on {list(frames.shape)}: {error}") from error
