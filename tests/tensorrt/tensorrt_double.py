"""A double of ``tensorrt`` and ``tensorrt_rtx`` on the GPU of `cuda_double`; ONNX Runtime computes."""

import enum
import threading
import weakref
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
from cuda_double import Machine, Owned

PLAN = b"double's plan:"
VERSION = "10.3.0"
SCRATCH = 4096


class DataType(enum.Enum):
    FLOAT = 0
    UINT8 = 1


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class ILogger:
    def __init__(self) -> None:
        self.ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class _Child(Owned):
    """What TensorRT frees with its last reference, and must free before what it came from."""

    def __init__(self, machine: Machine, parent: Any) -> None:
        super().__init__(machine, type(self).__name__)
        self._machine, self._parent = machine, weakref.ref(parent)

    def __del__(self) -> None:
        super().__del__()
        if hasattr(self, "_parent") and self._parent() is None:
            self._machine.blame(f"{self.what} freed after what it came from")


class IExecutionContext(_Child):
    def __init__(self, machine: Machine, engine: "ICudaEngine", strategy: ExecutionContextAllocationStrategy) -> None:
        super().__init__(machine, engine)
        self._lacks_memory = strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self._session, self._frame = engine._session, engine.get_tensor_shape("frames")[1:]
        self._sizes = {name: engine.get_tensor_shape(name)[1:] for name in ("frames", "score", "heatmap")}
        self._profile: int | None = None  # TensorRT sets it by itself for an engine's first context alone
        self._addresses: dict[str, int] = {}
        self._scratch = 0
        self._shape: tuple[int, ...] = ()
        self._ran = self._captured = False

    def _changed(self, what: str) -> None:
        self._machine.call(what)
        self.used(what)
        if self._captured:
            self._machine.blame(f"{what} on a context that a graph was captured from")

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._changed("set_tensor_address")
        self._addresses[name] = memory
        return name in {"frames", "score", "heatmap"}

    def set_device_memory(self, memory: int, size: int) -> None:
        self._changed("set_device_memory")
        if size < SCRATCH:
            self._machine.blame(f"{size} bytes of scratch memory where {SCRATCH} are needed")
        self._machine.bytes_at(memory, size, "set_device_memory")
        self._scratch, self._lacks_memory = memory, False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._changed("set_optimization_profile_async")
        assert stream_handle in self._machine.streams
        self._profile, self._shape, self._ran = profile_index, (), False
        return profile_index < len(self._machine.profiles)

    def get_tensor_shape(self, name: str) -> list[int]:
        return [self._shape[0], *self._sizes[name]]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._changed("set_input_shape")
        self._ran = self._ran and shape == self._shape
        if self._profile is None:
            self._machine.blame("a shape before a profile")
            return False
        smallest, _, largest = self._machine.profiles[self._profile]
        if name != "frames" or list(shape[1:]) != self._frame or not smallest <= shape[0] <= largest:
            return False
        self._shape = shape
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        machine, stream = self._machine, self._machine.streams[stream_handle]
        machine.calls.append("execute_async_v3")
        self.used("execute_async_v3")
        if machine.fail_next == "execute_async_v3":
            machine.fail_next = None
            return False
        if self._lacks_memory:
            machine.blame("an execution without scratch memory")
        if not self._shape or set(self._addresses) != {"frames", "score", "heatmap"}:
            machine.blame("an execution without a shape or an address")
        if stream.captured is not None:
            if not self._ran:
                machine.blame("captured before it ran once")
            self._captured = True
        elif self._scratch in machine.live:
            scratch = machine.live[self._scratch]
            if scratch.users - {stream_handle}:
                machine.blame("two streams execute with the same scratch memory")
            scratch.users.add(stream_handle)
        self._ran = True
        shape = self._shape
        stream.queue(lambda: self._execute(shape, stream_handle))
        return True

    def _execute(self, shape: tuple[int, ...], stream_handle: int) -> None:
        machine, size = self._machine, int(np.prod(shape))
        if self._scratch:
            machine.bytes_at(self._scratch, SCRATCH, "execute")[:] = 0x55
        if self._scratch in machine.live:
            machine.live[self._scratch].users.discard(stream_handle)
        frames = machine.bytes_at(self._addresses["frames"], size, "execute")
        names = ["score", "heatmap"]
        results = self._session.run(names, {"frames": frames.reshape(shape)})
        for name, result in zip(names, results, strict=True):
            data = result.reshape(-1).view(np.uint8)
            machine.bytes_at(self._addresses[name], len(data), "execute")[:] = data


class ICudaEngine(_Child):
    num_io_tensors = 3
    device_memory_size_v2 = SCRATCH

    def __init__(self, machine: Machine, runtime: Any, graph: bytes) -> None:
        super().__init__(machine, runtime)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._tensors = [*self._session.get_inputs(), *self._session.get_outputs()]
        self._making = threading.Lock()

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._machine.profiles)

    def get_tensor_name(self, index: int) -> str:
        return str(self._tensors[index].name)

    def _tensor(self, name: str) -> Any:
        return next(tensor for tensor in self._tensors if tensor.name == name)

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.UINT8 if self._tensor(name).type == "tensor(uint8)" else DataType.FLOAT

    def get_tensor_shape(self, name: str) -> list[int]:
        return [-1, *self._tensor(name).shape[1:]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return [[count, *self._tensor(name).shape[1:]] for count in self._machine.profiles[profile_index]]

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext:
        alone = self._making.acquire(blocking=False)
        if not alone:
            self._machine.blame("two threads make execution contexts at once")
        try:
            return IExecutionContext(self._machine, self, strategy)
        finally:
            if alone:
                self._making.release()


def tensorrt_module(machine: Machine) -> ModuleType:
    """The double of ``tensorrt``."""

    class Runtime(_Child):
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
        __version__=VERSION,
        __file__="tensorrt/__init__.py",
        Runtime=Runtime,
        DataType=DataType,
        ILogger=ILogger,
        nptype=lambda kind: np.uint8 if kind is DataType.UINT8 else np.float32,
        ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
    )
    return module


def tensorrt_rtx_module(machine: Machine) -> ModuleType:
    """The double of ``tensorrt_rtx``, whose contexts capture by themselves."""

    class Settings:
        allocation = ExecutionContextAllocationStrategy.STATIC
        cuda_graph_strategy: str | None = None

        def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> bool:
            self.allocation = strategy
            return True

    class Engine(ICudaEngine):
        def create_runtime_config(self) -> Settings:
            return Settings()

        def create_execution_context(self, strategy: Any = None) -> IExecutionContext:
            assert strategy.cuda_graph_strategy == "whole"
            return super().create_execution_context(strategy.allocation)

    module = tensorrt_module(machine)
    plain = module.Runtime

    class Runtime(plain):  # type: ignore[misc, valid-type]
        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine:
            return Engine(machine, self, serialized_engine.removeprefix(PLAN))

    strategies = type("CudaGraphStrategy", (), {"WHOLE_GRAPH_CAPTURE": "whole"})
    module.__dict__.update(Runtime=Runtime, CudaGraphStrategy=strategies)
    return module


def tensorrt_surface() -> list[str]:
    """Every public ``Class.member`` of the double, to be held against the real bindings."""
    runtime = tensorrt_module(Machine()).Runtime
    return surface(DataType, ExecutionContextAllocationStrategy, ILogger, IExecutionContext, ICudaEngine, runtime)


def surface(*classes: type) -> list[str]:
    """Every public ``Class.member`` of some classes."""
    return [
        f"{kind.__name__}.{member}"
        for kind in classes
        for member in vars(kind)
        if not member.startswith("_") and member != "ready"
    ]
