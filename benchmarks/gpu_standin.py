"""A stand-in for TensorRT on a GPU that no TensorRT at hand supports: the deploy graph, computed by PyTorch.

It has the part of TensorRT's Python API that running an engine needs, and queues the graph's arithmetic on the stream it is given, between
the addresses it is given. All else is the real thing: PyCUDA, the driver, page-locked memory, streams, events, CUDA graphs, threads. So
it shows whether the TensorRT backend works on the GPU, and what the backend and the loop add. What the graph itself takes is PyTorch's
time and says nothing about TensorRT.
"""

import enum
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import torch
from torch import nn

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.export.graph import prepare
from lrdan_edge.model.deployed import load_network

PROFILES = ((1, 1, 1), (2, 8, 64))  # as `gpu_check` builds engines


class DataType(enum.Enum):
    FLOAT = "<f4"
    UINT8 = "|u1"


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class ILogger:
    pass


class Memory:
    """Memory at an address, for PyTorch to see as a tensor."""

    def __init__(self, address: int, shape: tuple[int, ...], kind: DataType) -> None:
        self.__cuda_array_interface__ = {"shape": shape, "typestr": kind.value, "data": (address, False), "version": 3}


class IExecutionContext:
    def __init__(self, engine: "ICudaEngine") -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._batch = 0
        self._tensors: dict[str, torch.Tensor] = {}

    def set_device_memory(self, memory: int, size: int) -> None:
        """PyTorch has memory of its own."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:  # noqa: ARG002
        return profile_index < len(PROFILES)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        self._tensors.clear()
        return name in self._engine.shapes

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:  # noqa: ARG002
        self._batch = shape[0]
        self._tensors.clear()
        return any(smallest <= self._batch <= largest for smallest, _, largest in PROFILES)

    def get_tensor_shape(self, name: str) -> list[int]:
        return [self._batch, *self._engine.shapes[name]]

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = torch.cuda.ExternalStream(stream_handle)  # type: ignore[no-untyped-call]
        with torch.inference_mode(), torch.cuda.stream(stream):
            if not self._tensors:
                self._tensors = {name: self._tensor(name) for name in self._engine.shapes}
            score, heatmap = self._engine.module(self._tensors["frames"])
            self._tensors["score"].copy_(score)
            self._tensors["heatmap"].copy_(heatmap)
        return True

    def _tensor(self, name: str) -> torch.Tensor:
        memory = Memory(self._addresses[name], tuple(self.get_tensor_shape(name)), self._engine.get_tensor_dtype(name))
        return torch.as_tensor(memory, device="cuda")


class ICudaEngine:
    num_io_tensors = 3
    num_optimization_profiles = len(PROFILES)
    device_memory_size_v2 = 1

    def __init__(self, module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
        self.module, self.shapes = module, shapes

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.UINT8 if name == "frames" else DataType.FLOAT

    def get_tensor_shape(self, name: str) -> list[int]:
        return [-1, *self.shapes[name]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return [[count, *self.shapes[name]] for count in PROFILES[profile_index]]

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC,  # noqa: ARG002
    ) -> IExecutionContext:
        return IExecutionContext(self)


def stand_in(bundle: Bundle) -> ModuleType:
    """A module to be imported as ``tensorrt``, whose plans are the names of the bundle's precisions: ``b"fp16"``.

    PyTorch computes without TF32 from then on, as engines do.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    spec = bundle.manifest.model
    shapes = {"frames": spec.frame_shape, "score": (), "heatmap": spec.heatmap_shape}
    modules: dict[bytes, nn.Module] = {}

    def module_for(precision: Precision) -> nn.Module:
        module = load_network(bundle)
        prepare(module, precision)
        return module.to("cuda", memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            pass

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine:
            if serialized_engine not in modules:
                modules[serialized_engine] = module_for(serialized_engine.decode())  # type: ignore[arg-type]
            return ICudaEngine(modules[serialized_engine], shapes)

    module = ModuleType("tensorrt")
    module.__dict__.update(
        __version__=f"stand-in, PyTorch {torch.__version__}",
        __file__=__file__,
        __spec__=ModuleSpec("tensorrt", None),  # which torch.compile asks for
        Runtime=Runtime,
        DataType=DataType,
        ILogger=ILogger,
        ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
        nptype=lambda kind: np.uint8 if kind is DataType.UINT8 else np.float32,
    )
    return module
