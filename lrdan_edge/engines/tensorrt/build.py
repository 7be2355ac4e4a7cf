"""Build a TensorRT engine from a deploy graph, with TensorRT 10.3 to 11, or TensorRT for RTX.

Networks are strongly typed: the graph sets the precision, and no builder flag changes it. This runs on the device, so it needs
neither torch nor onnx.
"""

import platform
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lrdan_edge.backends.layers import count_precisions, tensorrt_layer
from lrdan_edge.backends.nvidia import Gpu, describe_tensorrt, find_gpu, find_tensorrt, logger_for, runtime_for
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.engine_sidecar import EngineLayer
from lrdan_edge.engines.tensorrt.build_log import BuildLog
from lrdan_edge.engines.tensorrt.configure import adjust_parser_for_dla, configure
from lrdan_edge.engines.tensorrt.monitor import Monitor, monitor_for
from lrdan_edge.engines.tensorrt.options import BuildOptions
from lrdan_edge.engines.tensorrt.timing_cache import load_timing_cache, save_timing_cache
from lrdan_edge.errors import EngineError

_NO_GPU = "none (built ahead of time on the CPU)"
_NO_DRIVER = "cudaError 35"  # TensorRT sometimes logs this on a machine without a GPU
_NOT_INSPECTED = "not inspected: no GPU"


@dataclass(frozen=True)
class BuiltPlan:
    """A TensorRT engine file (a plan), before it is in a bundle.

    Attributes:
        plan: The engine file's bytes.
        layers: Its layers, as TensorRT's inspector describes them; empty without a GPU.
        details: The builder, the device, the options and the results; plain values, ready for JSON.
    """

    plan: bytes
    layers: list[EngineLayer]
    details: dict[str, Any]


def build_plan(
    graph: bytes,
    options: BuildOptions | None = None,
    progress: Callable[[str, float], None] | None = None,
    name: str = "the graph",
) -> BuiltPlan:
    """Build an engine from a deploy graph (input ``frames`` uint8 [N, H, W, C], outputs ``score`` [N], ``heatmap`` [N, h, w]).

    Args:
        graph: The ONNX file's bytes, of any precision.
        options: Build options; None: the defaults.
        name: The file's name, for messages.
        progress: Called with the name of TensorRT's phase and the fraction done, 0 to 1; may be called on another thread.

    Raises:
        MissingExtraError: TensorRT is not installed.
        EngineError: TensorRT cannot parse the graph or cannot build it here; the message names the node, or says what to reduce.
        KeyboardInterrupt: The user pressed Ctrl-C; TensorRT has stopped.
    """
    options, started = options or BuildOptions(), time.monotonic()
    trt, gpu = find_tensorrt(), find_gpu()
    monitor = Monitor(progress)
    with ExitStack() as stack:
        log = BuildLog(options, stack, noise=None if gpu else _NO_DRIVER)
        logger = logger_for(trt, log.add)
        builder = _builder(trt, logger, log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if options.dla_core is not None:
            adjust_parser_for_dla(trt, parser)
        _parse(trt, parser, graph, name, log)
        config = builder.create_builder_config()
        facts = configure(trt, builder, network, config, _frame_shape(trt, network, name), options, gpu)
        config.progress_monitor = monitor_for(trt, monitor)
        cache = load_timing_cache(trt, config, options.timing_cache)
        plan = _run(builder, network, config, monitor)
        if plan is None:
            raise _refusal(trt, log, options, facts["workspace_mib"])
        if cache is not None and options.timing_cache:
            save_timing_cache(options.timing_cache, cache)
        layers, inspected = _inspect(trt, logger, log, bytes(plan), options, gpu)
        details = {
            "tensorrt": str(trt.__version__),
            "module": str(trt.__name__),
            **_device_details(gpu),
            "batches": [list(profile) for profile in options.batches],
            **facts,
            "optimization_level": int(config.builder_optimization_level),
            "timing_cache": "kept" if cache is not None else "none",
            "network_layers": int(network.num_layers),
            **inspected,
            "build_seconds": round(time.monotonic() - started, 3),
            "warnings": list(log.warnings),
        }
        return BuiltPlan(bytes(plan), layers, details)


def _device_details(gpu: Gpu | None) -> dict[str, str]:
    here = {"platform": f"{platform.system().lower()}-{platform.machine()}"}
    if gpu is None:
        return here | {"device": _NO_GPU, "cuda_driver": "none"}
    return here | {"device": gpu.name, "compute_capability": gpu.compute_capability, "cuda_driver": gpu.cuda}


def _builder(trt: Any, logger: Any, log: BuildLog) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # how pybind11 reports a null pointer: TensorRT found no usable GPU
        raise EngineError(
            f"{describe_tensorrt(trt)} cannot start its builder ({log.reason()}): it needs an NVIDIA GPU with a new enough driver",
            "install TensorRT for RTX (pip install tensorrt-rtx), which builds without a GPU",
        ) from error


def _parse(trt: Any, parser: Any, graph: bytes, name: str, log: BuildLog) -> None:
    if parser.parse(graph):
        return
    failure = parser.get_error(0) if parser.num_errors else None
    node = f"node {failure.node_name()!r} ({failure.node_operator()}): " if failure and failure.node_operator() else ""
    reason = log.plain(failure.desc()) if failure else log.reason()
    raise EngineError(
        f"{describe_tensorrt(trt)} cannot parse {name}: {node}{reason}",
        "make the graph again with '{export}' (int8: '{calibrate}')",
        export=Command("export"),
        calibrate=Command("calibrate"),
    )


def _frame_shape(trt: Any, network: Any, name: str) -> tuple[int, int, int]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = {network.get_output(index).name: network.get_output(index).dtype for index in range(network.num_outputs)}
    shape = tuple(inputs[0].shape) if inputs else ()
    if (
        [(tensor.name, tensor.dtype) for tensor in inputs] != [("frames", trt.DataType.UINT8)]
        or outputs != {"score": trt.DataType.FLOAT, "heatmap": trt.DataType.FLOAT}
        or len(shape) != 4
        or shape[0] != -1
        or min(shape[1:]) < 1
    ):
        names = ", ".join([f"{tensor.name} {list(tensor.shape)}" for tensor in inputs] + sorted(outputs))
        raise EngineError(
            f"{name} is not a deploy graph (its inputs and outputs are {names or 'none'}; wanted frames uint8 "
            "[N, H, W, C], score and heatmap)",
            "make it with '{command}'",
            command=Command("export"),
        )
    return shape[1:]


def _run(builder: Any, network: Any, config: Any, monitor: Monitor) -> Any:
    """Build on another thread, so that this one receives Ctrl-C; TensorRT then stops at its next step."""
    with ThreadPoolExecutor(1, thread_name_prefix="tensorrt-builder") as pool:
        building = pool.submit(builder.build_serialized_network, network, config)
        try:
            plan = building.result()
        except KeyboardInterrupt:
            monitor.stopped = True
            raise
    if monitor.error:
        raise monitor.error
    if plan is not None:
        monitor.complete()
    return plan


def _refusal(trt: Any, log: BuildLog, options: BuildOptions, workspace: int | str) -> EngineError:
    reason = log.reason()
    if re.search(r"could not find any implementation|out of memory|insufficient (memory|workspace)", reason, re.IGNORECASE):
        limit = f"{workspace} MiB" if isinstance(workspace, int) else workspace
        return EngineError(
            f"{describe_tensorrt(trt)} ran out of memory while building ({reason})",
            "close other programs, lower the largest batch in {batches} (now {largest}), change {workspace_mib} (now {limit}), or train "
            "with a smaller {image_size}",
            largest=options.largest,
            limit=limit,
        )
    return EngineError(f"{describe_tensorrt(trt)} cannot build this engine: {reason}", "build with {log_path:FILE} to see more")


def _inspect(
    trt: Any, logger: Any, log: BuildLog, plan: bytes, options: BuildOptions, gpu: Gpu | None
) -> tuple[list[EngineLayer], dict[str, Any]]:
    """The engine's layers and their actual precisions."""
    if gpu is None:
        return [], {"engine_layers": _NOT_INSPECTED, "precision": _NOT_INSPECTED}
    runtime = runtime_for(trt, logger, dla_core=options.dla_core, host_code=options.version_compatible)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(
            f"{describe_tensorrt(trt)} cannot load the engine it built on {gpu.name} ({log.reason()})",
            "use a release that supports this GPU",
        )
    inspector = engine.create_engine_inspector()
    form = trt.LayerInformationFormat.JSON
    layers = [tensorrt_layer(inspector.get_layer_information(index, form)) for index in range(engine.num_layers)]
    return layers, {
        "engine_layers": len(layers),
        "precision": count_precisions(layers),
        "device_memory_bytes": int(engine.device_memory_size_v2),
    }
