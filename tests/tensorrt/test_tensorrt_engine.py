"""Engines are opened or refused, and a profile is taken for every batch; doubles note every misuse."""

import gc
import sys

import pytest
from cuda_double import Machine
from hypothesis import given
from hypothesis import strategies as st
from small_graph import GRAPH, expected, frames
from tensorrt_double import PLAN

from lrdan_edge.backends.tensorrt import TensorRTBackend
from lrdan_edge.backends.tensorrt_engine import Profile, profile_for
from lrdan_edge.errors import BackendError, EngineError, MissingExtraError


def test_a_profile_that_starts_above_one_frame_is_filled_up(machine: Machine) -> None:
    machine.profiles = [(4, 4, 8)]
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend:
        assert backend.infer(frames(9)).score == pytest.approx(expected(frames(9))[0], rel=1e-5)


@pytest.mark.parametrize("with_graphs", [False, True])
def test_every_batch_runs_by_the_profile_that_was_built_for_it(
    bindings: Machine, monkeypatch: pytest.MonkeyPatch, with_graphs: bool
) -> None:
    if not with_graphs:
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    bindings.profiles = [(2, 4, 8), (1, 1, 1), (8, 16, 16)]
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend:
        assert backend.spec.max_batch == 16
        for seed, count in enumerate((1, 3, 1, 16, 40, 9, 1, 2, 16, 16, 3)):
            batch = frames(count, seed)
            assert backend.infer(batch).score == pytest.approx(expected(batch)[0], rel=1e-5)
    assert bindings.calls.count("set_optimization_profile_async") >= 2


PROFILES = st.lists(st.lists(st.integers(1, 64), min_size=3, max_size=3).map(sorted), min_size=1, max_size=5)


@given(sizes=PROFILES, data=st.data())
def test_the_profile_taken_holds_the_batch_and_wastes_least(sizes: list[list[int]], data: st.DataObject) -> None:
    profiles = [Profile(index, *size) for index, size in enumerate(sizes)]
    count = data.draw(st.integers(1, max(profile.largest for profile in profiles)))
    taken = profile_for(profiles, count)
    assert count <= taken.largest
    run = max(count, taken.smallest)
    holding = [profile for profile in profiles if count <= profile.largest]
    assert run == min(max(count, profile.smallest) for profile in holding)
    exact = [profile for profile in holding if profile.best == count and profile.smallest <= count]
    assert not exact or taken.best == count


def test_an_engine_of_another_version_names_the_command_that_rebuilds(machine: Machine) -> None:
    with pytest.raises(EngineError, match=r"TensorRT 10\.3\.0 cannot load .*Version tag does not match.*build-engine --int8"):
        TensorRTBackend(b"something else", "int8")
    assert machine.idle()


def test_an_engine_of_another_graph_is_refused(machine: Machine) -> None:
    assert machine
    with pytest.raises(EngineError, match=r"not built from a deploy graph .*pixels"):
        TensorRTBackend(PLAN + GRAPH.replace(b"frames", b"pixels"), "fp32")


def test_too_little_gpu_memory(machine: Machine) -> None:
    machine.memory = 10_000
    with pytest.raises(BackendError, match=r"out of memory.*free GPU memory"):
        TensorRTBackend(PLAN + GRAPH, "fp32")
    assert machine.idle()


def test_no_gpu(machine: Machine) -> None:
    machine.gpus = 0
    with pytest.raises(BackendError, match=r"no CUDA-capable device.*another backend"):
        TensorRTBackend(PLAN + GRAPH, "fp32")


OPENING = [
    "pagelocked_empty",
    "mem_alloc",
    "Stream",
    "Event",
    "IExecutionContext",
    "ICudaEngine",
    "Runtime",
    "set_device_memory",
]


@pytest.mark.parametrize("call", OPENING)
@pytest.mark.parametrize("skipped", [0, 1])
def test_what_fails_while_opening_leaves_nothing_behind(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, call: str, skipped: int
) -> None:
    """The first such call fails, or the one after, which may be the second stream's."""
    seen, plain = [0], Machine.call

    def counting(self: Machine, name: str) -> None:
        seen[0] += name == call
        if name == call and seen[0] == skipped + 1:
            self.fail_next = name
        plain(self, name)

    monkeypatch.setattr(Machine, "call", counting)
    if skipped and call in ("Runtime", "ICudaEngine"):  # there is one
        TensorRTBackend(PLAN + GRAPH, "fp32").close()
    else:
        with pytest.raises(BackendError, match=f"CUDA cannot use the GPU .{call} failed"):
            TensorRTBackend(PLAN + GRAPH, "fp32")
    gc.collect()
    assert machine.idle()


def test_a_missing_pycuda_names_its_extra(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine
    monkeypatch.delitem(sys.modules, "pycuda.driver")
    with pytest.raises(MissingExtraError, match=r"needs pycuda.*lrdan-edge\[tensorrt\]"):
        TensorRTBackend(PLAN + GRAPH, "fp32")
