"""CUDA graphs: captured, launched, and done without where they fail; doubles note every misuse."""

import re
import sys
from typing import Any

import numpy as np
import pytest
from cuda_double import Machine
from small_graph import GRAPH, expected, frames
from tensorrt_double import PLAN, tensorrt_rtx_module

from lrdan_edge.backends import tensorrt_slot as slot_module
from lrdan_edge.backends.tensorrt import TensorRTBackend
from lrdan_edge.errors import BackendError


def test_a_batch_size_seen_before_is_one_launch(bindings: Machine) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32", streams=1) as backend:
        backend.infer(frames(3))
        bindings.calls.clear()
        for seed in range(4):
            batch = frames(3, seed)
            found = backend.infer(batch, heatmap=seed % 2 == 0)
            assert found.score == pytest.approx(expected(batch)[0], rel=1e-5)
            if found.heatmap is not None:
                np.testing.assert_allclose(found.heatmap, expected(batch)[1], rtol=1e-4, atol=1e-6)
        assert bindings.calls.count("cuGraphLaunch") == 4
        assert not {"execute_async_v3", "memcpy_htod_async", "set_input_shape"} & {*bindings.calls}
        assert bindings.calls.count("memcpy_dtoh_async") == 2, "heatmaps alone, where asked for"


def test_graphs_are_kept_for_the_first_sizes_alone(bindings: Machine) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32", streams=1) as backend:
        for count in (1, 2, 3, 4, 5, 6, 7, 8, 7, 6, 5, 4, 3, 2, 1):
            assert backend.infer(frames(count)).score == pytest.approx(expected(frames(count))[0], rel=1e-5)
    assert bindings.calls.count("cuGraphInstantiate") == 4
    assert bindings.calls.count("cuGraphLaunch") == 4


@pytest.mark.parametrize(
    "call",
    [
        "cuStreamBeginCapture",
        "cuStreamEndCapture",
        "cuGraphInstantiate",
        "memcpy_htod_async",
        "execute_async_v3",
        "memcpy_dtoh_async",
        "IExecutionContext",
    ],
)
def test_without_a_graph_it_goes_on_and_says_so(
    bindings: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32", streams=1) as backend:
        capture = slot_module.Slot._capture

        def failing(self: Any, *arguments: Any) -> None:
            bindings.fail_next = call
            capture(self, *arguments)

        monkeypatch.setattr(slot_module.Slot, "_capture", failing)
        for seed in range(3):
            assert backend.infer(frames(2, seed)).score == pytest.approx(expected(frames(2, seed))[0], rel=1e-5)
    assert len(caplog.messages) == 1
    assert re.match(f"running without CUDA graphs: .*{call} failed", caplog.messages[0])
    assert "cuGraphLaunch" not in bindings.calls


def test_tensorrt_for_rtx_captures_by_itself(bindings: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_rtx_module(bindings))
    with TensorRTBackend(PLAN + GRAPH, "fp32") as backend:
        for seed in range(4):
            assert backend.infer(frames(2, seed)).score == pytest.approx(expected(frames(2, seed))[0], rel=1e-5)
    assert "cuStreamBeginCapture" not in bindings.calls


def test_a_failed_launch_is_an_error(bindings: Machine) -> None:
    with TensorRTBackend(PLAN + GRAPH, "fp32", streams=1) as backend:
        backend.infer(frames(2))
        bindings.fail_next = "cuGraphLaunch"
        with pytest.raises(BackendError, match="cuGraphLaunch failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
            backend.infer(frames(2))
        assert backend.infer(frames(2, 1)).score == pytest.approx(expected(frames(2, 1))[0], rel=1e-5)
