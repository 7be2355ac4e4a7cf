"""TensorRT for RTX. It compiles kernels while it runs, so its contexts capture CUDA graphs themselves."""

from typing import Any


def captures_by_itself(trt: Any) -> bool:
    """Whether this is TensorRT for RTX, 1.2 or later."""
    return hasattr(trt, "CudaGraphStrategy")


def capturing_context(trt: Any, engine: Any) -> Any:
    """A context of `engine` that replays CUDA graphs, or None on failure. The caller sets its memory (`set_device_memory`).

    Source: NVIDIA, "Working with RTX CUDA Graphs", in TensorRT for RTX's documentation.
    """
    settings = engine.create_runtime_config()
    settings.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(settings)
