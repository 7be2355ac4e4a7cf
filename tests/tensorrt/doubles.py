"""A double of ``tensorrt`` and ``pycuda.driver`` that is stricter than a GPU.

Device memory is host memory under made-up addresses. Work queued on a stream happens when the stream is synchronised, not
before, so a missing synchronisation gives wrong results. ONNX Runtime computes. What a GPU would punish by a crash or by
garbage (a call without a current context or from another thread, use after free, a copy beyond an allocation or from pageable
memory, freeing in the wrong order) is noted in `Machine.violations`.
"""

import enum
import threading
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort

PLAN = b"double's plan:"
VERSION = "10.3.0"


class Machine:
    """The GPU with its driver; the attributes in the first block make things fail."""

    def __init__(self) -> None:
        self.gpus = 1
        self.memory = 1 << 30
        self.fail_next: str | None = None
        self.profile = ((1,), (1,), (8,))

        self.violations: list[str] = []
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.live: dict[int, Allocation] = {}
        self.pinned: list[tuple[int, int, weakref.ref[Any]]] = []
        self.streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
        self.contexts = 0
        self.engines = 0
        self._stack = threading.local()
        self._next = 0x7F0000000000
        self.Error = type("Error", (Exception,), {})

    @property
    def stack(self) -> list["Context"]:
        """Contexts pushed on this thread."""
        if not hasattr(self._stack, "contexts"):
            self._stack.contexts = []
        contexts: list[Context] = self._stack.contexts
        return contexts

    def call(self, name: str) -> None:
        """Every call that needs a current context comes through here."""
        self.calls.append(name)
        self.threads.add(threading.get_ident())
        if not self.stack:
            self.violations.append(f"{name} with no currently active context")
        if self.fail_next == name:
            self.fail_next = None
            raise self.Error(f"{name} failed: an illegal memory access was encountered")

    def address(self) -> int:
        self._next += 1 << 24
        return self._next

    def allocation(self, address: int, size: int, what: str) -> "Allocation | None":
        allocation = self.live.get(address)
        if allocation is None:
            self.violations.append(f"{what}: {address:#x} is not allocated")
        elif allocation.data.nbytes < size:
            self.violations.append(f"{what}: {size} bytes in an allocation of {allocation.data.nbytes}")
        else:
            return allocation
        return None

    def require_pinned(self, array: Any, what: str) -> None:
        start = array.__array_interface__["data"][0]
        if not any(low <= start and start + array.nbytes <= high and owner() is not None for low, high, owner in self.pinned):
            self.violations.append(f"{what}: the host memory is not page-locked, or was freed")

    def idle(self) -> bool:
        """Whether everything was given back."""
        pinned = [owner for _, _, owner in self.pinned if owner() is not None]
        return not (self.live or self.contexts or self.engines or pinned or self.streams)


class Allocation:
    def __init__(self, machine: Machine, size: int) -> None:
        self._machine, self._address = machine, machine.address()
        self.data = np.full(size, 0xAA, np.uint8)
        machine.live[self._address] = self

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._machine.call("free")
        if any(stream.pending for stream in self._machine.streams.values()):
            self._machine.violations.append("memory freed while a stream still works")
        if self._machine.live.pop(self._address, None) is None:
            self._machine.violations.append("memory freed twice")


class Context:
    def __init__(self, machine: Machine) -> None:
        self._machine, self._thread = machine, threading.get_ident()
        machine.contexts += 1

    def push(self) -> None:
        self._machine.stack.append(self)

    def pop(self) -> None:
        self._machine.call("pop")
        self._machine.stack.pop()

    def detach(self) -> None:
        if self._thread != threading.get_ident():
            self._machine.violations.append("context detached on another thread")
        if self._machine.live or self._machine.engines or self._machine.streams:
            self._machine.violations.append("context detached before what was made in it was freed")
        self._machine.contexts -= 1


class Stream:
    def __init__(self, machine: Machine) -> None:
        machine.call("Stream")
        self._machine, self.handle = machine, machine.address()
        self.pending: list[Callable[[], None]] = []
        machine.streams[self.handle] = self

    def synchronize(self) -> None:
        self._machine.call("synchronize")
        while self.pending:
            self.pending.pop(0)()

    def __del__(self) -> None:
        if not self._machine.stack:
            self._machine.violations.append("stream freed with no currently active context")


def cuda_driver(machine: Machine) -> ModuleType:
    """The double of ``pycuda.driver``."""

    class Device:
        def __init__(self, ordinal: int) -> None:
            assert ordinal < machine.gpus

        def name(self) -> str:
            return "Double GPU"

        def retain_primary_context(self) -> Context:
            return Context(machine)

    def init() -> None:
        if not machine.gpus:
            raise machine.Error("cuInit failed: no CUDA-capable device is detected")

    def mem_alloc(size: int) -> Allocation:
        machine.call("mem_alloc")
        if size + sum(allocation.data.nbytes for allocation in machine.live.values()) > machine.memory:
            raise machine.Error("cuMemAlloc failed: out of memory")
        return Allocation(machine, size)

    def pagelocked_empty(shape: tuple[int, ...], dtype: Any) -> Any:
        machine.call("pagelocked_empty")
        array = np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, 0x7F, np.uint8).view(dtype).reshape(shape)
        start = array.__array_interface__["data"][0]
        machine.pinned.append((start, start + array.nbytes, weakref.ref(array)))
        return array

    def memcpy_htod_async(destination: Any, source: Any, stream: Stream) -> None:
        machine.call("memcpy_htod_async")
        machine.require_pinned(source, "memcpy_htod_async")
        allocation = machine.allocation(int(destination), source.nbytes, "memcpy_htod_async")
        assert allocation
        stream.pending.append(lambda: np.copyto(allocation.data[: source.nbytes], source.reshape(-1).view(np.uint8)))

    def memcpy_dtoh_async(destination: Any, source: Any, stream: Stream) -> None:
        machine.call("memcpy_dtoh_async")
        machine.require_pinned(destination, "memcpy_dtoh_async")
        allocation = machine.allocation(int(source), destination.nbytes, "memcpy_dtoh_async")
        assert allocation
        stream.pending.append(lambda: np.copyto(destination.reshape(-1).view(np.uint8), allocation.data[: destination.nbytes]))

    module = ModuleType("pycuda.driver")
    functions = (init, Device, mem_alloc, pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async)
    module.__dict__.update({function.__name__: function for function in functions})
    module.__dict__.update(Error=machine.Error, Stream=lambda: Stream(machine))
    return module


class DataType(enum.Enum):
    FLOAT = 0
    UINT8 = 1


class ILogger:
    def __init__(self) -> None:
        self.ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class _Owned:
    """What TensorRT frees with its last reference: noted when that happens where it must not."""

    def __init__(self, machine: Machine, parent: Any) -> None:
        machine.call(type(self).__name__)
        self._machine, self._parent = machine, weakref.ref(parent)
        machine.engines += 1

    def __del__(self) -> None:
        self._machine.engines -= 1
        if not self._machine.stack:
            self._machine.violations.append(f"{type(self).__name__} freed with no currently active context")
        if self._parent() is None:
            self._machine.violations.append(f"{type(self).__name__} freed after what it came from")


class IExecutionContext(_Owned):
    def __init__(self, machine: Machine, engine: "ICudaEngine") -> None:
        super().__init__(machine, engine)
        self._session, self._profile = engine._session, machine.profile
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._machine.call("set_tensor_address")
        self._addresses[name] = memory
        return name in {"frames", "score", "heatmap"}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._machine.call("set_input_shape")
        self._shape = shape
        return name == "frames" and self._profile[0][0] <= shape[0] <= self._profile[2][0]

    def execute_async_v3(self, stream_handle: int) -> bool:
        self._machine.calls.append("execute_async_v3")
        if self._machine.fail_next == "execute_async_v3":
            self._machine.fail_next = None
            return False
        self._machine.streams[stream_handle].pending.append(self._execute)
        return True

    def _execute(self) -> None:
        size = int(np.prod(self._shape))
        frames = self._machine.allocation(self._addresses["frames"], size, "execute")
        assert frames
        names = ["score", "heatmap"]
        results = self._session.run(names, {"frames": frames.data[:size].reshape(self._shape)})
        for name, result in zip(names, results, strict=True):
            target = self._machine.allocation(self._addresses[name], result.nbytes, "execute")
            assert target
            target.data[: result.nbytes] = result.reshape(-1).view(np.uint8)


class ICudaEngine(_Owned):
    num_io_tensors = 3

    def __init__(self, machine: Machine, runtime: Any, graph: bytes) -> None:
        super().__init__(machine, runtime)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._tensors = [*self._session.get_inputs(), *self._session.get_outputs()]

    def get_tensor_name(self, index: int) -> str:
        return str(self._tensors[index].name)

    def _tensor(self, name: str) -> Any:
        return next(tensor for tensor in self._tensors if tensor.name == name)

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.UINT8 if self._tensor(name).type == "tensor(uint8)" else DataType.FLOAT

    def get_tensor_shape(self, name: str) -> list[int]:
        return [-1, *self._tensor(name).shape[1:]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        assert profile_index == 0
        return [[*count, *self._tensor(name).shape[1:]] for count in self._machine.profile]

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self._machine, self)


def tensorrt_module(machine: Machine) -> ModuleType:
    """The double of ``tensorrt``."""

    class Runtime(_Owned):
        def __init__(self, logger: ILogger) -> None:
            assert logger.ready
            self._logger = logger
            super().__init__(machine, logger)

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            if not serialized_engine.startswith(PLAN):
                self._logger.log(1, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Version tag does not match)")
                return None
            return ICudaEngine(machine, self, serialized_engine.removeprefix(PLAN))

    module = ModuleType("tensorrt")
    module.__dict__.update(
        __version__=VERSION, __file__="tensorrt/__init__.py", Runtime=Runtime, DataType=DataType, ILogger=ILogger
    )
    return module


def tensorrt_surface() -> list[str]:
    """Every public ``Class.member`` of the double, to be held against the real bindings."""
    runtime = tensorrt_module(Machine()).Runtime
    classes = (DataType, ILogger, IExecutionContext, ICudaEngine, runtime)
    return [
        f"{kind.__name__}.{member}"
        for kind in classes
        for member in vars(kind)
        if not member.startswith("_") and member != "ready"
    ]


def cuda_surface() -> set[str]:
    """Every public name of the double of ``pycuda.driver`` and of its classes."""
    module = cuda_driver(Machine())
    names = {name for name in vars(module) if not name.startswith("_")}
    for kind in (Allocation, Context, Stream, module.Device):
        names |= {member for member in vars(kind) if not member.startswith("_")}
    return names | {"handle"}
