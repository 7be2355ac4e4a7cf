"""The PyCUDA backend, driven through doubles that note every misuse; ONNX Runtime computes."""

import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cuda_double import Machine
from small_graph import GRAPH, expected, frames
from tensorrt_double import PLAN, SCRATCH

from lrdan_edge.backends import tensorrt as backend_module
from lrdan_edge.backends import tensorrt_slot as slot_module
from lrdan_edge.backends.tensorrt import TensorRTBackend
from lrdan_edge.errors import BackendError


@pytest.mark.parametrize("count", [1, 3, 8, 19])
def test_results_are_the_graphs(machine: Machine, count: int) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp16") as backend:
        spec = backend.spec
        assert (spec.frame_shape, spec.heatmap_shape, spec.max_batch) == ((16, 16, 3), (16, 16), 8)
        assert (spec.device, spec.precision) == ("Double GPU", "fp16")
        detections = backend.infer(frames(count))
    score, heatmap = expected(frames(count))
    np.testing.assert_allclose(detections.score, score, rtol=1e-5)
    assert detections.heatmap is not None
    np.testing.assert_allclose(detections.heatmap, heatmap, rtol=1e-4, atol=1e-6)
    assert machine.calls.count("execute_async_v3") == -(-count // 8)


def test_the_heatmap_stays_on_the_gpu_unless_requested(machine: Machine) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend:
        assert backend.infer(frames(2), heatmap=False).heatmap is None
        assert machine.calls.count("memcpy_dtoh_async") == 1


def test_buffers_are_allocated_once_and_results_belong_to_the_caller(machine: Machine) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend:
        first = backend.infer(frames(8))
        kept = first.score.copy()
        backend.infer(frames(8, seed=1))
        backend.infer(frames(5, seed=2)[:, ::-1])
        np.testing.assert_array_equal(first.score, kept)
    assert machine.calls.count("pagelocked_empty") == 2 * 3
    assert machine.calls.count("mem_alloc") == 2 * 4  # three tensors and scratch memory per stream
    assert machine.calls.count("IExecutionContext") == 2


def test_a_shape_is_set_when_it_changes(machine: Machine) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32", streams=1) as backend:
        for count in (3, 3, 3, 5, 3):
            assert backend.infer(frames(count)).score == pytest.approx(expected(frames(count))[0], rel=1e-5)
    assert machine.calls.count("set_input_shape") == 3
    assert machine.calls.count("set_optimization_profile_async") == 1


def test_calls_from_two_threads_are_on_the_gpu_together(machine: Machine) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend, ThreadPoolExecutor(2) as pool:
        assert backend.spec.in_flight == 2
        machine.together = threading.Barrier(2)  # breaks unless both wait for the GPU at once
        batches = [frames(3, 1), frames(5, 2)]
        for batch, found in zip(batches, pool.map(backend.infer, batches), strict=True):
            assert found.score == pytest.approx(expected(batch)[0], rel=1e-5)
        assert backend.infer(frames(16)).score == pytest.approx(expected(frames(16))[0], rel=1e-5)  # parts of one batch, too


def test_warming_up_reaches_every_stream(bindings: Machine) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend:
        backend.warm_up(4)
        assert bindings.calls.count("cuGraphInstantiate") == 2
        backend.infer(frames(4))
        assert bindings.calls.count("cuGraphInstantiate") == 2
        backend.warm_up(1000)


def test_waiting_sleeps_unless_spin_is_set(machine: Machine) -> None:
    for spin, (once, never) in ((False, ("sleeps", "spins")), (True, ("spins", "sleeps"))):
        machine.calls.clear()
        with TensorRTBackend(PLAN + GRAPH, "fp32", spin=spin) as backend:
            backend.infer(frames(2))
        assert once in machine.calls
        assert never not in machine.calls


def test_the_gpus_own_time_is_reported(machine: Machine) -> None:
    assert machine
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend:
        assert backend.infer(frames(2)).device_ms == 0.25
        assert backend.infer(frames(19)).device_ms == 0.75


def test_a_gpu_that_shares_the_hosts_memory_copies_nothing(bindings: Machine) -> None:
    bindings.integrated = True
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend:
        for seed, count in enumerate((1, 8, 8, 19, 1)):
            batch = frames(count, seed)
            found = backend.infer(batch)
            score, heatmap = expected(batch)
            np.testing.assert_allclose(found.score, score, rtol=1e-5)
            assert found.heatmap is not None
            np.testing.assert_allclose(found.heatmap, heatmap, rtol=1e-4, atol=1e-6)
            assert backend.infer(batch, heatmap=False).score == pytest.approx(score, rel=1e-5)
        assert {len(memory.data) for memory in bindings.live.values()} == {SCRATCH}
    assert not {"memcpy_htod_async", "memcpy_dtoh_async"} & {*bindings.calls}


def test_a_gpu_that_writes_nothing_gives_no_score(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32", streams=1) as backend:
        backend.infer(frames(2))
        pretending = slot_module.Slot._enqueue
        monkeypatch.setattr(slot_module.Slot, "_enqueue", lambda *_: None)
        assert np.isnan(backend.infer(frames(2)).score).all()
        monkeypatch.setattr(slot_module.Slot, "_enqueue", pretending)
    assert machine


def test_callers_on_many_threads_get_their_own_results(machine: Machine) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend, ThreadPoolExecutor(8) as pool:
        batches = [frames(1 + seed % 9, seed) for seed in range(40)]
        for batch, detections in zip(batches, pool.map(backend.infer, batches), strict=True):
            np.testing.assert_allclose(detections.score, expected(batch)[0], rtol=1e-5)
    assert len(machine.threads) == 3  # the engine's and the two streams'
    assert threading.get_ident() not in machine.threads


def test_closing_twice_and_using_after(machine: Machine) -> None:
    backend = TensorRTBackend(PLAN + GRAPH, "fp32")
    backend.close()
    assert machine.idle()
    backend.close()
    with pytest.raises(BackendError, match="closed: open the bundle again"):
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


def test_an_unreferenced_backend_frees_the_gpu(machine: Machine) -> None:
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
        with pytest.raises(BackendError, match=f"belongs to process {parent}, and neither threads nor CUDA survive a fork"):
            backend.infer(frames(1))
        backend_module._stop(backend._requests, 2, threading.current_thread(), parent)
        backend.close()
    assert not machine.idle()
    assert backend.infer(frames(1)).score.shape == (1,)
    backend.close()


CALLS = ["memcpy_htod_async", "execute_async_v3", "memcpy_dtoh_async", "set_input_shape", "record", "event_synchronize"]


@pytest.mark.parametrize("call", CALLS)
def test_a_failed_call_is_an_error_and_never_the_last_result(machine: Machine, call: str) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32", streams=1) as backend:
        backend.infer(frames(2))
        machine.fail_next = call
        with pytest.raises(BackendError, match=f"{call}.* failed") as caught:
            backend.infer(frames(3, seed=5))
        assert len(list(walk(caught.value))) == 2, "the streams' frames must not travel with the error"
        assert backend.infer(frames(2)).score == pytest.approx(expected(frames(2))[0], rel=1e-5)


def walk(error: BaseException | None) -> Iterator[str]:
    """Names of this module's functions that hold a frame of the error or its causes; the caller's own alone are expected."""
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename in (backend_module.__file__, slot_module.__file__):
                yield traceback.tb_frame.f_code.co_name
            traceback = traceback.tb_next
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("wrong", [np.zeros((1, 16, 16, 1), np.uint8), np.zeros((1, 16, 16, 3), np.float32), frames(0)])
def test_wrong_frames_are_refused_with_a_clear_message(machine: Machine, wrong: Any) -> None:
    assert machine
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend, pytest.raises(BackendError, match="16×16×3"):
        backend.infer(wrong)
