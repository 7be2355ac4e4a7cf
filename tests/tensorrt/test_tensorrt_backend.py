"""The PyCUDA backend, driven through doubles that note every misuse; ONNX Runtime computes."""

import gc
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from deploy_graphs import deploy_graph
from doubles import PLAN, Machine, cuda_driver, tensorrt_module

from lrdan_edge.errors import BackendError, EngineError, MissingExtraError
from lrdan_edge.runtime.backends import tensorrt as backend_module
from lrdan_edge.runtime.backends.tensorrt import TensorRTBackend

GRAPH = deploy_graph("fp32", 16, 3)
Frames = npt.NDArray[np.uint8]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine()
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_module(machine))
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", cuda_driver(machine))
    yield machine
    gc.collect()
    assert machine.violations == []
    assert machine.idle(), "something of the GPU was not given back"
    assert not [thread for thread in threading.enumerate() if thread.name == "tensorrt"]


def frames(count: int, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)


def expected(batch: Frames) -> list[Any]:
    return list(ort.InferenceSession(GRAPH).run(["score", "heatmap"], {"frames": batch}))


@pytest.mark.parametrize("count", [1, 3, 8, 19])
def test_results_are_the_graphs(machine: Machine, count: int) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp16") as backend:
        spec = backend.spec
        assert (spec.frame_shape, spec.heatmap_shape, spec.max_batch) == ((16, 16, 3), (16, 16), 8)
        assert (spec.device, spec.precision) == ("Double GPU", "fp16")
        detections = backend.infer(frames(count))
    score, heatmap = expected(frames(count))
    np.testing.assert_allclose(detections.score, score, rtol=1e-5)
    np.testing.assert_allclose(detections.heatmap, heatmap, rtol=1e-4, atol=1e-6)
    assert machine.calls.count("execute_async_v3") == -(-count // 8)


def test_the_heatmap_stays_on_the_gpu_unless_asked_for(machine: Machine) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend:
        assert backend.infer(frames(2), heatmap=False).heatmap is None
        assert machine.calls.count("memcpy_dtoh_async") == 1


def test_buffers_are_made_once_and_results_are_the_callers(machine: Machine) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend:
        first = backend.infer(frames(8))
        kept = first.score.copy()
        backend.infer(frames(8, seed=1))
        backend.infer(frames(5, seed=2)[:, ::-1])
        np.testing.assert_array_equal(first.score, kept)
    assert machine.calls.count("mem_alloc") == machine.calls.count("pagelocked_empty") == 3


def test_a_profile_that_starts_above_one_frame_is_filled_up(machine: Machine) -> None:
    machine.profile = ((4,), (4,), (8,))
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend:
        assert backend.infer(frames(9)).score == pytest.approx(expected(frames(9))[0], rel=1e-5)


def test_callers_on_many_threads_get_their_own_answers_from_one(machine: Machine) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend, ThreadPoolExecutor(8) as pool:
        batches = [frames(1 + seed % 9, seed) for seed in range(40)]
        for batch, detections in zip(batches, pool.map(backend.infer, batches), strict=True):
            np.testing.assert_allclose(detections.score, expected(batch)[0], rtol=1e-5)
    assert len(machine.threads) == 1
    assert threading.get_ident() not in machine.threads


def test_closing_twice_and_using_after(machine: Machine) -> None:
    backend = TensorRTBackend(PLAN + GRAPH, "fp32")
    backend.close()
    assert machine.idle()
    backend.close()
    with pytest.raises(BackendError, match="closed: open the inspector again"):
        backend.infer(frames(1))


def test_closing_from_another_thread_while_callers_wait(machine: Machine) -> None:
    backend = TensorRTBackend(PLAN + GRAPH, "fp32")
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(backend.infer, frames(8, seed)) for seed in range(12)]
        pool.submit(backend.close).result()
    for answer in answers:
        error = answer.exception()
        assert error is None or "closed" in str(error)
    assert machine.idle()


def test_a_backend_nobody_holds_frees_the_gpu(machine: Machine) -> None:
    backend = TensorRTBackend(PLAN + GRAPH, "fp32")
    backend.infer(frames(1))
    del backend
    gc.collect()
    assert machine.idle()


def test_a_forked_process_is_refused_and_frees_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TensorRTBackend(PLAN + GRAPH, "fp32")
    parent = os.getpid()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: parent + 1)
        with pytest.raises(BackendError, match=f"belongs to process {parent}, and CUDA does not survive a fork"):
            backend.infer(frames(1))
        backend_module._stop(backend._requests, threading.current_thread(), backend._lock, parent)
    assert not machine.idle()
    assert backend.infer(frames(1)).score.shape == (1,)
    backend.close()


def test_an_engine_of_another_version_names_the_command_that_rebuilds(machine: Machine) -> None:
    with pytest.raises(EngineError, match=r"TensorRT 10\.3\.0 cannot load .*Version tag does not match.*build-engine --int8"):
        TensorRTBackend(b"something else", "int8")
    assert machine.idle()


def test_an_engine_of_another_graph_is_refused(machine: Machine) -> None:
    assert machine
    with pytest.raises(EngineError, match=r"not a deploy graph's .*pixels"):
        TensorRTBackend(PLAN + GRAPH.replace(b"frames", b"pixels"), "fp32")


def test_too_little_gpu_memory(machine: Machine) -> None:
    machine.memory = 10_000
    with pytest.raises(BackendError, match=r"out of memory.*free GPU memory"):
        TensorRTBackend(PLAN + GRAPH, "fp32")
    assert machine.idle()


def test_no_gpu(machine: Machine) -> None:
    machine.gpus = 0
    with pytest.raises(BackendError, match=r"no CUDA-capable device.*another --backend"):
        TensorRTBackend(PLAN + GRAPH, "fp32")


@pytest.mark.parametrize("call", ["memcpy_htod_async", "execute_async_v3", "memcpy_dtoh_async", "set_input_shape"])
def test_a_failed_call_is_an_error_and_never_the_last_result(machine: Machine, call: str) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend:
        backend.infer(frames(2))
        machine.fail_next = call
        with pytest.raises(BackendError, match=f"{call} failed") as caught:
            backend.infer(frames(2, seed=5))
        assert len(list(walk(caught.value))) == 1, "the owner's frames must not travel with the error"
        next(iter(machine.streams.values())).pending.clear()
        assert backend.infer(frames(2)).score == pytest.approx(expected(frames(2))[0], rel=1e-5)


def walk(error: BaseException | None) -> Iterator[str]:
    """Names of the files of this package that hold a frame of the error or its causes, the caller's `infer` alone expected."""
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == backend_module.__file__:
                yield traceback.tb_frame.f_code.co_name
            traceback = traceback.tb_next
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("wrong", [np.zeros((1, 16, 16, 1), np.uint8), np.zeros((1, 16, 16, 3), np.float32), frames(0)])
def test_wrong_frames_are_refused_in_words(machine: Machine, wrong: Any) -> None:
    assert machine
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend, pytest.raises(BackendError, match="16×16×3"):
        backend.infer(wrong)


def test_a_missing_pycuda_names_its_extra(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine
    monkeypatch.delitem(sys.modules, "pycuda.driver")
    with pytest.raises(MissingExtraError, match=r"needs pycuda.*lrdan-edge\[tensorrt\]"):
        TensorRTBackend(PLAN + GRAPH, "fp32")
