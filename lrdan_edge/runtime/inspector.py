"""Opens a bundle and inspects frames."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lrdan_edge.backends.base import ANY_CORES, Backend, Cores
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.decision import GraphDecision
from lrdan_edge.bundle.spec import BitDepth, Precision
from lrdan_edge.data.form import Form
from lrdan_edge.data.images import Frame, fit_frame, to_eight_bits
from lrdan_edge.engines.golden import check_against_threshold
from lrdan_edge.engines.select import BackendChoice, choose
from lrdan_edge.errors import BackendError, DataError, LrdanError, MissingStageError
from lrdan_edge.runtime.unlike import FrameCheck
from lrdan_edge.runtime.verdict import NothingInspected, Thresholder, Verdict, Verdicts


def decision_for(bundle: Bundle, choice: BackendChoice) -> GraphDecision:
    """The thresholds of a backend: its engine's own if it has some, else its graph's.

    Raises:
        MissingStageError: The bundle is not calibrated.
    """
    own = bundle.engine_decision(choice.engine) if choice.engine else None
    found = own or bundle.decision().graphs.get(choice.precision)
    if found is None:
        command = Command("calibrate", bundle=bundle.path)
        raise MissingStageError(f"{bundle.path} has no {choice.precision} threshold", "run '{command}'", command=command)
    return found


def open_verified(bundle: Bundle, choice: BackendChoice, decision: GraphDecision, cores: Cores = ANY_CORES) -> Backend:
    """Open the chosen backend and check its scores on golden frames; see `lrdan_edge.engines.golden.check_against_threshold`.

    Raises:
        DriftError: Its scores differ from those that `decision` was fitted on.
        BackendError: The backend does not load, or inference failed.
    """
    backend = choice.open(cores)
    try:
        if choice.backend != "null":
            check_against_threshold(bundle, backend, decision, choice.title, _drift_fix(bundle, choice))
    except BaseException:
        backend.close()
        raise
    return backend


def _drift_fix(bundle: Bundle, choice: BackendChoice) -> str:
    """How to fix a backend whose scores differ from those that its threshold was fitted on."""
    refit = f"'{Command('calibrate', decision_only=True, bundle=bundle.path)}'"
    other = "or choose another precision or backend"
    if choice.engine or choice.backend == "onnxruntime":
        return f"fit its threshold on this device with {refit}, {other}"
    if choice.backend == "openvino":
        build = Command("build-engine", **{choice.precision: True}, target="openvino", bundle=bundle.path)
        return f"build an engine with '{build}' and fit its threshold with {refit}, {other}"
    return "choose another precision or backend"


@dataclass(eq=False, repr=False)
class Inspector:
    """Inspects frames with one backend of a bundle; `open` makes one.

    Attributes:
        bundle: The bundle.
        backend: The backend that runs.
        thresholder: Makes verdicts and p-values from scores.
        choice: Why this backend was chosen.
        notes: How frames given to `inspect` differed from the training images, one sentence per kind of difference.
    """

    bundle: Bundle
    backend: Backend
    thresholder: Thresholder
    choice: BackendChoice
    notes: list[str] = field(default_factory=list)

    @property
    def judge(self) -> Thresholder:
        """Deprecated name of `thresholder`, until 0.3."""
        warnings.warn("Inspector.judge is deprecated: use Inspector.thresholder", DeprecationWarning, stacklevel=2)
        return self.thresholder

    @property
    def bit_depth(self) -> BitDepth:
        """Bits used of a 16-bit frame; see `Preprocessing.bit_depth`."""
        return self.bundle.manifest.preprocessing.bit_depth

    @cached_property
    def frame_check(self) -> FrameCheck:
        """Compares frames with the bundle's training images."""
        return FrameCheck.of(self.bundle)

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle = "bundle",
        *,
        backend: str = "auto",
        precision: Precision | None = None,
        threshold: float | None = None,
        threads: int | None = None,
        spin: bool | None = None,
        require_signature: str | os.PathLike[str] | None = None,
    ) -> "Inspector":
        """Open a bundle for inspection.

        The thresholds are the engine's own if it has some, else those of its graph. The backend first scores some golden frames; it
        is refused if their scores differ from those that its threshold was fitted on (see
        `lrdan_edge.engines.golden.check_against_threshold`).

        Args:
            bundle: The folder, or an opened bundle.
            backend: ``auto`` for the fastest compatible backend, or one of `lrdan_edge.backends.BACKENDS`, which never falls
                back to another.
            precision: Only this precision; None: the fastest.
            threshold: A threshold instead of the calibrated one, in the score's unit.
            threads: CPU threads of the backend; None: one per core. Fewer may be faster if cameras are decoded on the same cores.
            spin: Busy-wait instead of sleeping: lower latency, busy cores. None: ONNX Runtime busy-waits, TensorRT sleeps.
            require_signature: See `Bundle.open`; only with the bundle's folder, since an opened bundle has been read already.

        Raises:
            MissingStageError: A stage has not run; the message names its command.
            BundleError: The bundle is damaged, changed or stale.
            BackendError: The requested backend is not available.
            DriftError: The backend's scores differ from those that its threshold was fitted on.
            ValueError: `require_signature` with an opened bundle.
        """
        if isinstance(bundle, Bundle) and require_signature is not None:
            raise ValueError("give require_signature to Bundle.open, which reads the bundle")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, require_signature=require_signature)
        opened.decision()  # check first that there is one
        choice = choose(opened, backend, precision)
        decision = decision_for(opened, choice)
        kind = NothingInspected if choice.backend == "null" else Thresholder
        thresholder = kind(decision, threshold, opened.manifest.model.region_fractions)
        return cls(opened, open_verified(opened, choice, decision, Cores(threads, spin)), thresholder, choice)

    def require_gpu(self) -> None:
        """Check that the backend runs on a GPU.

        Raises:
            BackendError: It does not; the message says why no engine for the GPU was chosen.
        """
        spec = self.backend.spec
        if not spec.on_gpu:
            raise BackendError(
                f"a GPU is required, and {self.choice.describe()} would run on {spec.device}",
                "build an engine for the GPU with '{command}', or choose it with {backend:tensorrt}",
                command=Command("build-engine", fp16=True, bundle=self.bundle.path),
            )

    def inspect(self, frames: Frame | Sequence[Frame | None], *, heatmaps: bool = True) -> Verdicts:
        """Inspect frames.

        Args:
            frames: uint8, or uint16 of the bundle's `bit_depth`; one frame [H, W] or [H, W, C], a batch [N, H, W, C], or a list of
                frames of any size. None in the list is a missing frame, which becomes a fault. A frame that looks unlike the training
                images is judged, and `notes` says so once, or is a fault (`lrdan_edge.runtime.unlike`); one of the graph's own size
                is taken as already resized.
            heatmaps: Also return heatmaps.

        Returns:
            One verdict per frame, in order. If the backend fails, every frame of the batch is a fault, never good.

        Raises:
            DataError: `frames` is not an image, a batch or a list of images.
        """
        batch, missing = self._resize(frames)
        verdicts: list[Verdict] = []
        if len(batch):
            try:
                found = self.backend.infer(batch, heatmap=heatmaps)
            except LrdanError as error:
                verdicts = [self.thresholder.fault(str(error)) for _ in batch]
            else:
                verdicts = [
                    self.thresholder.verdict(score, None if found.heatmap is None else found.heatmap[index])
                    for index, score in enumerate(found.score.tolist())
                ]
        for index, reason in missing:
            verdicts.insert(index, self.thresholder.fault(reason))
        return Verdicts(verdicts)

    def _resize(self, frames: Frame | Sequence[Frame | None]) -> tuple[Frame, list[tuple[int, str]]]:
        """The usable frames as one batch, and the index and the fault of each other frame, in ascending order."""
        shape = self.backend.spec.frame_shape
        if isinstance(frames, np.ndarray):
            if frames.ndim == 4 and frames.shape[1:] == shape and frames.dtype == np.uint8:
                return np.ascontiguousarray(frames), []
            if frames.ndim not in (2, 3, 4):
                raise DataError(f"frames are [H, W], [H, W, C] or [N, H, W, C], got {list(frames.shape)}")
            frames = list(frames) if frames.ndim == 4 else [frames]
        shown = {one.partition(":")[0] for one in self.notes}
        resized: list[Frame] = []
        missing: list[tuple[int, str]] = []
        for index, frame in enumerate(frames):
            try:
                if frame is None:
                    raise DataError("the frame is missing")
                image = np.asarray(frame)
                fitted = fit_frame(to_eight_bits(image, self.bit_depth), shape)
                for unlike in self.frame_check.check(Form.of(image)) if image.shape[:2] != shape[:2] else ():
                    if unlike.kind not in shown:
                        shown.add(unlike.kind)
                        self.notes.append(f"{unlike.kind}: {unlike.sentence}")
                    if unlike.fault:
                        raise DataError(unlike.sentence)
                resized.append(fitted)
            except DataError as error:
                missing.append((index, str(error)))
        batch: npt.NDArray[np.uint8] = np.stack(resized) if resized else np.empty((0, *shape), np.uint8)
        return batch, missing

    def warm_up(self, batch: int = 1) -> None:
        """Run a batch of `batch` black frames, so that the first real batch is not slow."""
        self.backend.warm_up(batch)

    def close(self) -> None:
        """Free the backend; may be called again."""
        self.backend.close()

    def __enter__(self) -> "Inspector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
