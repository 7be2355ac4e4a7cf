"""The TensorRT backend over the real PyCUDA and the software driver; TensorRT itself is the double. Prints what was found.

Run in a process of its own, with PyCUDA and the driver on its paths: ``python with_real_pycuda.py GRAPH.onnx``.
"""

import ctypes
import gc
import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from cuda_double import Machine
from tensorrt_double import PLAN, tensorrt_module

from lrdan_edge.backends.tensorrt import TensorRTBackend
from lrdan_edge.errors import LrdanError

DRIVER = ctypes.CDLL("libcuda.so.1")
DRIVER.software_noted.restype = ctypes.c_char_p
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
KINDS = ("memory", "pinned", "streams", "events", "contexts")


class SoftwareStream:
    """A stream of the software driver, as the double of TensorRT uses one."""

    captured = None

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.queued: list[Any] = []

    def queue(self, work: Callable[[], None]) -> None:
        callback = CALLBACK(lambda _: work())
        self.queued.append(callback)  # whose code the driver calls later
        DRIVER.software_queue(ctypes.c_void_p(self.handle), callback, None)


class SoftwareMachine(Machine):
    """The double's machine with the software driver's memory, streams and contexts."""

    @property
    def stack(self) -> list[Any]:
        return [None] * DRIVER.software_current()

    def bytes_at(self, address: int, size: int, what: str) -> Any:  # noqa: ARG002
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class Streams(dict[int, SoftwareStream]):
    def __contains__(self, handle: object) -> bool:
        return True

    def __missing__(self, handle: int) -> SoftwareStream:
        return self.setdefault(handle, SoftwareStream(handle))


def main(graph: bytes) -> dict[str, Any]:
    machine = SoftwareMachine()
    machine.streams = Streams()  # type: ignore[assignment]
    machine.profiles = [(1, 1, 2), (2, 4, 8)]
    sys.modules["tensorrt"] = tensorrt_module(machine)
    sys.modules["cuda.bindings.driver"] = None  # type: ignore[assignment]
    session = ort.InferenceSession(graph)
    shape = session.get_inputs()[0].shape[1:]
    random = np.random.default_rng(0)
    batches = [random.integers(0, 256, (count, *shape)).astype(np.uint8) for count in (1, 8, 3, 19, 2, 1, 8)]
    worst, times = 0.0, []
    try:
        with TensorRTBackend(PLAN + graph, "fp32") as backend, ThreadPoolExecutor(4) as pool:
            backend.warm_up(4)
            for batch, found in zip(3 * batches, pool.map(backend.infer, 3 * batches), strict=True):
                for ours, theirs in zip(found[:2], session.run(["score", "heatmap"], {"frames": batch}), strict=True):
                    assert ours is not None
                    worst = max(worst, float(np.abs(ours - theirs).max()))
                times.append(found.device_ms)
            device = backend.spec.device
        error = None
        del backend
    except LrdanError as refused:
        device, error = "", str(refused)
    gc.collect()
    return {
        "device": device,
        "error": error,
        "worst": worst,
        "times": times[: len(batches)],
        "left": {kind: DRIVER.software_live(number) for number, kind in enumerate(KINDS)},
        "noted": DRIVER.software_noted().decode(),
        "violations": machine.violations,
        "threads": [thread.name for thread in threading.enumerate() if thread.name.startswith("tensorrt")],
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]).read_bytes())))
