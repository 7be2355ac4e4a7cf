"""The public door of the runtime: open a bundle, inspect frames."""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lrdan_edge.backends.base import ANY_CORES, Backend, Cores
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.decision import GraphDecision
from lrdan_edge.bundle.spec import BitDepth, Precision
from lrdan_edge.data.images import Frame, fit_frame, to_eight_bits
from lrdan_edge.engines.golden import prove
from lrdan_edge.engines.select import Choice, choose
from lrdan_edge.errors import DataError, LrdanError, MissingStageError
from lrdan_edge.runtime.verdict import Judge, Verdict, Verdicts

if TYPE_CHECKING:
    from typing_extensions import Self


def decision_for(bundle: Bundle, choice: Choice) -> GraphDecision:
    """What a choice decides by: its engine's own decision where that has one, else its graph's.

    Raises:
        MissingStageError: The bundle is not calibrated.
    """
    own = bundle.engine_decision(choice.engine) if choice.engine else None
    found = own or bundle.decision().graphs.get(choice.precision)
    if found is None:
        raise MissingStageError(
            f"{bundle.path} has no {choice.precision} threshold: run 'lrdan-edge calibrate --bundle {bundle.path}'"
        )
    return found


def open_proven(bundle: Bundle, choice: Choice, decision: GraphDecision, cores: Cores = ANY_CORES) -> Backend:
    """Open what was chosen, and hold it to the golden frames; see `lrdan_edge.engines.golden.prove`.

    Raises:
        DriftError: Its scores are not those that `decision` was fitted on.
        BackendError: It does not load, or failed.
    """
    backend = choice.open(cores)
    try:
        if choice.backend != "null":
            prove(bundle, backend, decision, choice.title, _remedy(bundle, choice))
    except BaseException:
        backend.close()
        raise
    return backend


def _remedy(bundle: Bundle, choice: Choice) -> str:
    """What to do about a choice whose scores are not those that its threshold was fitted on."""
    refit = f"'lrdan-edge calibrate --decision-only --bundle {bundle.path}'"
    other = "or choose another precision or backend"
    if choice.engine or choice.backend == "onnxruntime":
        return f"fit its threshold on this device with {refit}, {other}"
    if choice.backend == "openvino":
        build = f"'lrdan-edge build-engine --{choice.precision} --target openvino --bundle {bundle.path}'"
        return f"build an engine with {build} and fit its threshold with {refit}, {other}"
    return "choose another precision or backend"


class Inspector:
    """Inspects frames with one backend of a bundle.

    Attributes:
        choice: Which backend runs, and why.
        backend: The backend itself.
        judge: Threshold and p-values.
    """

    def __init__(self, bundle: Bundle, backend: Backend, judge: Judge, choice: Choice) -> None:
        """Put the parts together; `open` is the usual way."""
        self.bundle = bundle
        self.backend = backend
        self.judge = judge
        self.choice = choice

    @property
    def bit_depth(self) -> BitDepth:
        """How many bits of a 16-bit frame are used; see `Preprocessing.bit_depth`."""
        return self.bundle.manifest.preprocessing.bit_depth

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
    ) -> "Inspector":
        """Open a bundle for inspection, to be judged by the engine's own decision where it has one, else by its graph's.

        What was opened then scores some golden frames, and is refused where it does not score them as what its threshold was
        fitted on (see `lrdan_edge.engines.golden.prove`).

        Args:
            bundle: The folder, or an opened bundle.
            backend: ``auto`` (the fastest that fits), or the one to use, of `lrdan_edge.engines.select.BACKENDS`; nothing falls
                back to another.
            precision: Only this precision; None: the fastest.
            threshold: A threshold of the user's own instead of the calibrated one.
            threads: Of the processor, where that runs it; None: the backend's choice, which is every core. Where cameras are
                decoded on the same cores, fewer may be faster.
            spin: Whether whoever waits does so in a loop: sooner answers, busy cores. None: ONNX Runtime's threads do, and
                TensorRT sleeps until the GPU is done.

        Raises:
            MissingStageError: A stage has not run; the message names its command.
            BundleError: The bundle is damaged, changed or stale.
            BackendError: The backend asked for is not to be had.
            DriftError: Its scores are not those that its threshold was fitted on.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        opened.decision()  # first of all: whether there is one
        choice = choose(opened, backend, precision)
        decision = decision_for(opened, choice)
        judge = Judge(decision, threshold, opened.manifest.model.region_fractions)
        return cls(opened, open_proven(opened, choice, decision, Cores(threads, spin)), judge, choice)

    def inspect(self, frames: Frame | Sequence[Frame | None], *, heatmaps: bool = True) -> Verdicts:
        """Judge frames.

        Args:
            frames: uint8, or uint16 as the bundle's `bit_depth` says; one frame [H, W] or [H, W, C], a batch [N, H, W, C], or a
                list of frames of any size. None in the list is a missing frame: a fault.
            heatmaps: Whether heatmaps are wanted too.

        Returns:
            One verdict per frame, in order. A failed backend is a fault of every frame in the batch, never good.

        Raises:
            DataError: `frames` is not an image, a batch or a list of images.
        """
        batch, missing = self._fit(frames)
        verdicts: list[Verdict] = []
        if len(batch):
            try:
                found = self.backend.infer(batch, heatmap=heatmaps)
            except LrdanError as error:
                verdicts = [self.judge.fault(str(error)) for _ in batch]
            else:
                verdicts = [
                    self.judge.judge(score, None if found.heatmap is None else found.heatmap[index])
                    for index, score in enumerate(found.score.tolist())
                ]
        for index, reason in missing:
            verdicts.insert(index, self.judge.fault(reason))
        return Verdicts(verdicts)

    def _fit(self, frames: Frame | Sequence[Frame | None]) -> tuple[Frame, list[tuple[int, str]]]:
        """The frames that can be scored as one batch, and place and reason of those that cannot (ascending)."""
        shape = self.backend.spec.frame_shape
        if isinstance(frames, np.ndarray):
            if frames.ndim == 4 and frames.shape[1:] == shape and frames.dtype == np.uint8:
                return np.ascontiguousarray(frames), []
            if frames.ndim not in (2, 3, 4):
                raise DataError(f"frames are [H, W], [H, W, C] or [N, H, W, C]; these are {list(frames.shape)}")
            frames = list(frames) if frames.ndim == 4 else [frames]
        fitted: list[Frame] = []
        missing: list[tuple[int, str]] = []
        for index, frame in enumerate(frames):
            try:
                if frame is None:
                    raise DataError("the frame is missing")
                fitted.append(fit_frame(to_eight_bits(np.asarray(frame), self.bit_depth), shape))
            except DataError as error:
                missing.append((index, str(error)))
        batch: npt.NDArray[np.uint8] = np.stack(fitted) if fitted else np.empty((0, *shape), np.uint8)
        return batch, missing

    def warm_up(self, batch: int = 1) -> None:
        """Run black frames, `batch` at once, so that the first real ones are not the slow ones."""
        self.backend.warm_up(batch)

    def close(self) -> None:
        """Free the backend; may be called again."""
        self.backend.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
