"""A double of ``cuda.bindings.driver``, which captures CUDA graphs on the GPU of `cuda_double`."""

import enum
import threading
from types import ModuleType
from typing import Any

from cuda_double import Machine, Work


class CaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class Result(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


class Graph:
    """Captured work, instantiated or not."""

    def __init__(self, machine: Machine, works: list[Work]) -> None:
        self.works, self.thread = works, threading.get_ident()
        machine.count("graphs", 1)


def cuda_bindings(machine: Machine) -> ModuleType:
    """The double of ``cuda.bindings.driver``; its functions return an error code and perhaps a value."""

    def fails(name: str) -> bool:
        failing = machine.fail_next == name
        if failing:
            machine.fail_next = None
        machine.call(name)
        return failing

    def cuStreamBeginCapture(stream: int, mode: CaptureMode) -> tuple[Result]:  # noqa: N802
        assert mode is CaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        if fails("cuStreamBeginCapture"):
            return (Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        if machine.streams[stream].pending:
            machine.blame("a capture began while its stream still worked")
        machine.streams[stream].captured = []
        return (Result.CUDA_SUCCESS,)

    def cuStreamEndCapture(stream: int) -> tuple[Any, ...]:  # noqa: N802
        works, machine.streams[stream].captured = machine.streams[stream].captured, None
        if fails("cuStreamEndCapture") or works is None:
            return Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, None
        return Result.CUDA_SUCCESS, Graph(machine, works)

    def cuGraphInstantiate(graph: Graph, flags: int) -> tuple[Any, ...]:  # noqa: N802
        assert flags == 0
        if fails("cuGraphInstantiate"):
            return Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, None
        return Result.CUDA_SUCCESS, Graph(machine, graph.works)

    def cuGraphLaunch(executable: Graph, stream: int) -> tuple[Result]:  # noqa: N802
        if fails("cuGraphLaunch"):
            return (Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        if executable.thread != threading.get_ident():
            machine.blame("a graph launched on another thread")
        for work in executable.works:
            machine.streams[stream].queue(work)
        return (Result.CUDA_SUCCESS,)

    def destroy(graph: Graph) -> tuple[Result]:
        machine.call("destroy")
        if any(stream.pending and stream.thread == graph.thread for stream in list(machine.streams.values())):
            machine.blame("a graph freed while it may be running")
        machine.count("graphs", -1)
        return (Result.CUDA_SUCCESS,)

    module = ModuleType("cuda.bindings.driver")
    functions = (cuStreamBeginCapture, cuStreamEndCapture, cuGraphInstantiate, cuGraphLaunch)
    module.__dict__.update({function.__name__: function for function in functions})
    module.__dict__.update(CUstreamCaptureMode=CaptureMode, cuGraphDestroy=destroy, cuGraphExecDestroy=destroy)
    return module


def bindings_surface() -> set[str]:
    """Every public name of the double of ``cuda.bindings.driver``, and the modes and results that the code relies on."""
    module = cuda_bindings(Machine())
    names = {name for name in vars(module) if not name.startswith("_")}
    return names | {f"CUstreamCaptureMode.{mode.name}" for mode in CaptureMode} | {f"CUresult.{code.name}" for code in Result}
