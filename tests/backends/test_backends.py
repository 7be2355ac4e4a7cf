"""Every backend keeps one contract."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import Line

from lrdan_edge.backends.base import Backend
from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.data.images import Frame
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.golden import golden_frames, golden_scores
from lrdan_edge.engines.open import engines, open_engine
from lrdan_edge.engines.select import choose
from lrdan_edge.errors import BackendError

BACKENDS = [
    "null",
    "torch",
    "onnxruntime fp32",
    "onnxruntime int8",
    "engine onnxruntime",
    "engine openvino",
    "openvino fp32",
    "openvino int8",
]
TOLERANCE = {
    "torch": 1e-4,
    "onnxruntime": 1e-5,
    "engine onnxruntime": 1e-3,
    "engine openvino": 0.1,
    "openvino fp32": 1e-3,
    "openvino int8": 0.1,
}


@pytest.fixture(scope="module", params=BACKENDS)
def opener(request: pytest.FixtureRequest, line: Line, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Backend]:
    kind, _, precision = request.param.partition(" ")
    bundle = Bundle.open(shutil.copytree(line.bundle, tmp_path_factory.mktemp("backends") / "bundle"))
    if "openvino" in request.param:
        pytest.importorskip("openvino")
    if kind == "engine":
        build_engine(bundle, BuildRequest("int8", precision))
        return lambda: open_engine(bundle, engines(bundle)[0])
    return choose(bundle, kind, precision or None).open


@pytest.fixture(scope="module")
def backend(opener: Callable[[], Backend]) -> Iterator[Backend]:
    with opener() as opened:
        yield opened


@pytest.fixture(scope="module")
def frames(line: Line) -> Frame:
    return golden_frames(Bundle.open(line.bundle))


def test_spec_and_shapes(backend: Backend, frames: Frame) -> None:
    assert backend.spec.frame_shape == frames.shape[1:]
    detections = backend.infer(frames)
    assert detections.heatmap is not None
    assert (detections.score.dtype.name, detections.score.shape) == ("float32", (len(frames),))
    assert (detections.heatmap.dtype.name, detections.heatmap.shape) == ("float32", (len(frames), *backend.spec.heatmap_shape))


def test_scores_are_the_graphs(backend: Backend, frames: Frame, line: Line, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["opener"]
    if name == "null":
        pytest.skip("the null backend inspects nothing")
    expected = golden_scores(Bundle.open(line.bundle)).scores[backend.spec.precision]
    tolerance = next(value for key, value in TOLERANCE.items() if name.startswith(key))
    assert backend.infer(frames).score.tolist() == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_the_score_is_the_heatmaps(backend: Backend, frames: Frame, request: pytest.FixtureRequest) -> None:
    detections = backend.infer(frames)
    assert detections.heatmap is not None
    if request.node.callspec.params["opener"] == "null":
        pytest.skip("the null backend inspects nothing")
    expected = np.sqrt(np.square(detections.heatmap.astype(np.float64)).mean((1, 2)))  # 32 x 32 images are scored as a whole
    assert np.allclose(detections.score, expected, rtol=1e-5)


def test_without_heatmap_the_scores_are_the_same(backend: Backend, frames: Frame) -> None:
    detections = backend.infer(frames, heatmap=False)
    assert detections.heatmap is None
    assert np.allclose(detections.score, backend.infer(frames).score, rtol=1e-5)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(8)), cut=st.integers(1, 7))
def test_a_score_depends_only_on_its_own_frame(backend: Backend, frames: Frame, order: list[int], cut: int) -> None:
    whole = backend.infer(frames).score
    mixed = np.ascontiguousarray(frames[order])
    parts = np.concatenate([backend.infer(mixed[:cut]).score, backend.infer(mixed[cut:]).score])
    assert np.allclose(parts, whole[order], rtol=1e-4, atol=1e-5)


def test_results_are_the_callers_own(backend: Backend, frames: Frame) -> None:
    first = backend.infer(frames)
    copy = first.score.copy()
    backend.infer(255 - frames)
    assert np.array_equal(first.score, copy)


def test_batches_beyond_the_largest_are_split(backend: Backend, frames: Frame) -> None:
    many = np.ascontiguousarray(np.tile(frames, (9, 1, 1, 1))[:70])
    scores = backend.infer(many).score
    assert scores.shape == (70,)
    assert np.allclose(scores[64:], scores[:6], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 32, 32, 1), np.float32),
        np.zeros((32, 32, 1), np.uint8),
        np.zeros((1, 16, 32, 1), np.uint8),
        np.zeros((1, 32, 32, 3), np.uint8),
        np.zeros((0, 32, 32, 1), np.uint8),
    ],
)
def test_wrong_frames_are_refused_with_a_clear_message(backend: Backend, wrong: Frame) -> None:
    with pytest.raises(BackendError, match="frames must be uint8"):
        backend.infer(wrong)


def test_callers_on_many_threads_get_their_own_scores(backend: Backend, frames: Frame) -> None:
    expected = backend.infer(frames).score
    wrong: list[int] = []

    def call(index: int) -> None:
        for _ in range(5):
            if not np.allclose(backend.infer(frames[index : index + 1]).score, expected[index], rtol=1e-4, atol=1e-5):
                wrong.append(index)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_closed_backend_is_reported_and_can_be_closed_again(opener: Callable[[], Backend], frames: Frame) -> None:
    backend = opener()
    backend.close()
    backend.close()
    for call in (lambda: backend.infer(frames), backend.warm_up):
        with pytest.raises(BackendError, match=f"this {backend.name} backend is closed: open the bundle again"):
            call()


def test_closing_waits_for_the_calls_that_run(opener: Callable[[], Backend], frames: Frame) -> None:
    backend = opener()
    expected = backend.infer(frames).score
    results: list[bool] = []
    started = threading.Barrier(5)

    def call() -> None:
        started.wait()
        try:
            while True:
                results.append(np.allclose(backend.infer(frames).score, expected, rtol=1e-4, atol=1e-5))
        except BackendError as error:
            results.append("is closed" in str(error))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    backend.close()
    for thread in threads:
        thread.join()
    assert all(results)


def test_a_forked_process_must_open_its_own(
    opener: Callable[[], Backend], frames: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = os.getpid()
    with opener() as backend:
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: parent + 1)
            for call in (lambda: backend.infer(frames), backend.warm_up):
                with pytest.raises(BackendError, match=f"belongs to process {parent}.*in process {parent + 1} itself"):
                    call()
            backend.close()
        assert backend.infer(frames).score.shape == (len(frames),), "closing the child's copy leaves the parent's open"


@pytest.mark.parametrize("data", [b"", b"not onnx", b"\x08\x08"])
def test_a_non_graph_is_refused(data: bytes) -> None:
    with pytest.raises(BackendError, match="cannot load"):
        OnnxRuntimeBackend(data, "fp32")


SIGNALLED = """
import faulthandler, signal, sys
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.data.images import Frame
from lrdan_edge.engines.select import choose
faulthandler.enable()
bundle = Bundle.open(sys.argv[1])
opened = [choose(bundle, "openvino", precision).open() for precision in ("fp32", "int8", "fp32")]
for backend in opened:
    backend.close()
del opened, backend
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""


def test_signals_are_handled_after_several_openvino_backends(line: Line) -> None:
    """Several cores used to leave the thread on a freed signal stack: the next Ctrl-C ended in a segmentation fault."""
    pytest.importorskip("openvino")
    result = subprocess.run([sys.executable, "-c", SIGNALLED, str(line.bundle)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "handled\n"), result.stderr
