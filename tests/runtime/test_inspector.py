import math

import numpy as np
import pytest
from parts import Array, Line, defective_image, good_image
from scipy.stats import betabinom

from lrdan_edge import Bundle, Inspector
from lrdan_edge.backends.base import Backend, BackendSpec, Detections
from lrdan_edge.data.images import fit_frame, list_images, load_frames
from lrdan_edge.errors import BackendError, DataError, MissingStageError, StaleStageError


@pytest.fixture(scope="module")
def inspector(line: Line) -> Inspector:
    return Inspector.open(line.bundle, backend="onnxruntime", precision="fp32")


def test_good_parts_pass_and_defects_do_not(inspector: Inspector, line: Line) -> None:
    shape = inspector.backend.spec.frame_shape
    good = inspector.inspect(load_frames(list_images(line.data / "test" / "good"), shape))
    bad = inspector.inspect(load_frames(list_images(line.data / "test" / "blob"), shape))
    decision = Bundle.open(line.bundle).decision().graphs["fp32"]
    rank = math.ceil((decision.n + 1) * (1 - decision.false_reject_rate))
    most = betabinom(len(good), decision.n + 1 - rank, rank).ppf(0.999)  # the exact law of rejects after split conformal
    assert sum(verdict.outcome == "reject" for verdict in good) <= most < len(good) / 2
    assert sum(verdict.outcome == "reject" for verdict in bad) >= 18


def test_one_frame_a_batch_and_a_list_get_the_same_verdicts(inspector: Inspector) -> None:
    rng = np.random.default_rng(3)
    frames = [defective_image(rng)[0] for _ in range(3)]
    batch = np.stack([fit_frame(frame, (32, 32, 1)) for frame in frames])
    expected = inspector.inspect(batch).scores
    assert np.allclose(inspector.inspect(frames).scores, expected, rtol=1e-5)
    assert np.allclose([inspector.inspect(frame).scores[0] for frame in frames], expected, rtol=1e-5)


def test_frames_of_any_size_are_fitted_as_in_training(inspector: Inspector) -> None:
    frame = good_image(np.random.default_rng(0)).repeat(3, 0).repeat(3, 1)
    small = fit_frame(frame, (32, 32, 1))
    assert inspector.inspect(frame)[0].score == pytest.approx(inspector.inspect(small)[0].score)


def test_missing_and_invalid_frames_are_faults_in_their_place(inspector: Inspector) -> None:
    frame = good_image(np.random.default_rng(0))
    verdicts = inspector.inspect([None, frame, np.zeros((3, 3, 7), np.uint8), frame, None])
    assert [verdict.outcome for verdict in verdicts] == ["fault", "good", "fault", "good", "fault"]
    assert verdicts[0].fault == "the frame is missing"
    assert [verdict.outcome for verdict in inspector.inspect([None])] == ["fault"]


def test_a_non_image_is_refused(inspector: Inspector) -> None:
    with pytest.raises(DataError, match=r"frames are \[H, W\]"):
        inspector.inspect(np.zeros(5, np.uint8))


class _Scripted(Backend):
    name = "scripted"

    def __init__(self, answer: float | Exception) -> None:
        super().__init__(BackendSpec((32, 32, 1), (32, 32), 8, "test", "fp32"))
        self.answer = answer

    def _infer(self, frames: Array, heatmap: bool) -> Detections:  # noqa: ARG002
        if isinstance(self.answer, Exception):
            raise self.answer
        return Detections(np.full(len(frames), self.answer, np.float32), None)

    def _close(self) -> None:
        pass


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), BackendError("the device is gone")])
def test_a_backend_that_fails_is_a_fault_and_never_good(inspector: Inspector, answer: float | Exception) -> None:
    failing = Inspector(inspector.bundle, _Scripted(answer), inspector.thresholder, inspector.choice)
    verdicts = failing.inspect([np.zeros((32, 32), np.uint8)] * 2)
    assert [verdict.outcome for verdict in verdicts] == ["fault", "fault"]


def test_a_threshold_can_be_changed_when_opening(line: Line) -> None:
    with Inspector.open(line.bundle, backend="onnxruntime", threshold=-1e9) as strict:
        assert strict.inspect(good_image(np.random.default_rng(0)))[0].outcome == "reject"


def test_an_unavailable_backend_is_never_replaced(line: Line) -> None:
    with pytest.raises(BackendError, match="no tensorrt"):
        Inspector.open(line.bundle, backend="tensorrt")
    with pytest.raises(BackendError, match="no backend 'cuda'"):
        Inspector.open(line.bundle, backend="cuda")
    with pytest.raises(BackendError, match="runs fp32, not int8"):
        Inspector.open(line.bundle, backend="torch", precision="int8")


def test_an_uncalibrated_or_stale_bundle_is_refused(own_line: Line) -> None:
    from lrdan_edge.bundle.bundle import Bundle

    bundle = Bundle.open(own_line.bundle)
    with bundle.stage("train", command="lrdan-edge train") as stage:
        for name in bundle.manifest.stages["train"].outputs:
            stage.path(name).write_bytes((bundle.path / name).read_bytes() + b" ")
        stage.results = bundle.manifest.stages["train"].results
    with pytest.raises(StaleStageError, match=r"run .lrdan-edge export .* again, then calibrate"):
        Inspector.open(own_line.bundle)
    with pytest.raises(MissingStageError, match="lrdan-edge train"):
        Inspector.open(own_line.bundle / "none")
