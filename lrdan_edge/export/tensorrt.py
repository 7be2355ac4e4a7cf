"""A deploy graph to a TensorRT engine: TensorRT 10.3 and later, 11, and TensorRT for RTX, by one path.

Networks are strongly typed: the precision is what the graph says, and no builder flag changes it. Neither torch nor onnx is
needed, for this runs on the device.
"""

import json
import os
import platform
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrdan_edge.errors import EngineError
from lrdan_edge.export.monitor import Monitor, monitor_for
from lrdan_edge.runtime.nvidia import Gpu, find_gpu, find_tensorrt, logger_for, title

_NO_GPU = "none (built ahead of time on the CPU)"
_NO_DRIVER = "cudaError 35"  # what TensorRT notes now and then when it asks the CUDA runtime on a machine without a GPU
_ERROR, _WARNING, _INFO = 1, 2, 3  # TensorRT's severities: 0 is worst


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        batch: Smallest, best and largest number of frames in one call; kernels are chosen for the best.
        workspace_mib: Most scratch memory a kernel may take, in MiB; None: half of what the GPU has free.
        optimization_level: 0 (builds fastest) to 5 (runs fastest); None: TensorRT's own default.
        timing_cache: File that remembers kernel timings between builds; made when missing. TensorRT for RTX has none.
        verbose: Whether the log holds TensorRT's every message.
        log_path: Where TensorRT's log goes; None: nowhere.

    Raises:
        EngineError: A value is out of range.
    """

    batch: tuple[int, int, int] = (1, 1, 8)
    workspace_mib: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    verbose: bool = False
    log_path: Path | None = None

    def __post_init__(self) -> None:
        smallest, best, largest = self.batch
        if not 1 <= smallest <= best <= largest:
            raise EngineError(
                f"a batch profile is MIN:OPT:MAX with 1 ≤ MIN ≤ OPT ≤ MAX; this one is {smallest}:{best}:{largest}"
            )
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise EngineError(f"the workspace is a number of MiB, 1 or more; this one is {self.workspace_mib}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise EngineError(f"the optimisation level is 0 to 5; this one is {self.optimization_level}")


@dataclass(frozen=True)
class BuiltEngine:
    """An engine.

    Attributes:
        plan: The engine file's bytes.
        details: What built it, for which device, with which options, and what came out; plain values, ready for JSON.
    """

    plan: bytes
    details: dict[str, Any]


def build_engine(
    graph: Path, options: BuildOptions | None = None, progress: Callable[[str, float], None] | None = None
) -> BuiltEngine:
    """Build an engine from a deploy graph (input ``frames`` uint8 [N, H, W, C], outputs ``score`` [N], ``heatmap`` [N, h, w]).

    Args:
        graph: The ONNX file, of any precision.
        options: How to build.
        progress: Called with the name of TensorRT's phase and the share done, 0 to 1, perhaps on another thread.

    Raises:
        MissingExtraError: TensorRT is not installed.
        EngineError: TensorRT refuses the graph or cannot build it here; the message says which node, or what to lower.
        KeyboardInterrupt: Ctrl-C; TensorRT has then stopped.
    """
    options, started = options or BuildOptions(), time.monotonic()
    trt, gpu = find_tensorrt(), find_gpu()
    monitor = Monitor(progress)
    with ExitStack() as stack:
        log = _Log(options, stack, noise=None if gpu else _NO_DRIVER)
        logger = logger_for(trt, log.add)
        builder = _builder(trt, logger, log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        _parse(trt, parser, graph, log)
        config = builder.create_builder_config()
        workspace = _configure(trt, builder, config, _frame_shape(trt, network, graph), options, gpu)
        config.progress_monitor = monitor_for(trt, monitor)
        cache = _load_timing_cache(trt, config, options.timing_cache)
        plan = _run(builder, network, config, monitor)
        if plan is None:
            raise _refusal(trt, log, options, workspace)
        if cache is not None and options.timing_cache:
            _write(options.timing_cache, bytes(cache.serialize()))
        details = {
            "tensorrt": str(trt.__version__),
            "module": str(trt.__name__),
            **_device_details(gpu),
            "batch": list(options.batch),
            "workspace_mib": workspace or "TensorRT's default",
            "optimization_level": int(config.builder_optimization_level),
            "timing_cache": "kept" if cache is not None else "none",
            "network_layers": int(network.num_layers),
            **_inspect(trt, logger, bytes(plan), gpu),
            "build_seconds": round(time.monotonic() - started, 3),
            "warnings": list(log.warnings),
        }
        return BuiltEngine(bytes(plan), details)


def _device_details(gpu: Gpu | None) -> dict[str, str]:
    here = {"platform": f"{platform.system().lower()}-{platform.machine()}"}
    if gpu is None:
        return here | {"device": _NO_GPU, "cuda_driver": "none"}
    return here | {"device": gpu.name, "compute_capability": gpu.compute_capability, "cuda_driver": gpu.cuda}


class _Log:
    """TensorRT's messages: all into the log file, the last problems kept for error messages. Any thread may add."""

    def __init__(self, options: BuildOptions, stack: ExitStack, noise: str | None) -> None:
        self.errors: deque[str] = deque(maxlen=4)
        self.warnings: deque[str] = deque(maxlen=4)
        self._limit = 4 if options.verbose else _INFO
        self._noise = noise
        self._lock = threading.Lock()
        self._file = None
        if options.log_path:
            try:
                self._file = stack.enter_context(options.log_path.open("w", encoding="utf-8"))
            except OSError as error:
                raise EngineError(f"the log {options.log_path} cannot be written ({error.strerror}): choose another") from error

    def add(self, severity: int, message: str) -> None:
        with self._lock, suppress(OSError):  # a full disk must neither end the build nor reach TensorRT's own frames
            if severity <= _WARNING and (plain := self.plain(message)):
                (self.errors if severity <= _ERROR else self.warnings).append(plain)
            if self._file and severity <= self._limit and not self._file.closed:
                self._file.write(f"{'!EWIV'[severity]} {message}\n")

    def plain(self, message: str) -> str:
        """The message on one line, without TensorRT's source positions."""
        lines = (line.strip() for line in message.splitlines() if not (self._noise and self._noise in line))
        return re.sub(r"\s*\bIn \S+ at \S+:\d+", "", "; ".join(filter(None, lines)))

    def said(self) -> str:
        """The last errors, for messages."""
        return "; ".join(self.errors) or "it gave no reason"


def _builder(trt: Any, logger: Any, log: _Log) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # pybind11's word for a null pointer: TensorRT found no usable GPU
        raise EngineError(
            f"{title(trt)} cannot start its builder ({log.said()}): it needs an NVIDIA GPU with a driver new enough for it; "
            "TensorRT for RTX (pip install tensorrt-rtx) builds without one"
        ) from error


def _parse(trt: Any, parser: Any, graph: Path, log: _Log) -> None:
    try:
        data = graph.read_bytes()
    except OSError as error:
        raise EngineError(f"{graph} cannot be read ({error.strerror}): run 'lrdan-edge export' first") from error
    if parser.parse(data):
        return
    failure = parser.get_error(0) if parser.num_errors else None
    node = f"node {failure.node_name()!r} ({failure.node_operator()}): " if failure and failure.node_operator() else ""
    said = log.plain(failure.desc()) if failure else log.said()
    raise EngineError(
        f"{title(trt)} cannot parse {graph.name}: {node}{said}; make the graph again with 'lrdan-edge export' "
        "(int8: 'lrdan-edge calibrate')"
    )


def _frame_shape(trt: Any, network: Any, graph: Path) -> tuple[int, int, int]:
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
            f"{graph.name} is not a deploy graph (its inputs and outputs are {names or 'none'}; wanted frames uint8 "
            "[N, H, W, C], score and heatmap): make it with 'lrdan-edge export'"
        )
    return shape[1:]


def _configure(
    trt: Any, builder: Any, config: Any, frame: tuple[int, int, int], options: BuildOptions, gpu: Gpu | None
) -> int | None:
    """Set profile, limits and level; returns the workspace limit in MiB, None where TensorRT's own holds."""
    profile = builder.create_optimization_profile()
    profile.set_shape("frames", *((count, *frame) for count in options.batch))
    config.add_optimization_profile(profile)
    # Layer names alone would hide the precision that each layer got.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    workspace = options.workspace_mib or (max(gpu.free_bytes() // 2 >> 20, 64) if gpu else None)
    if workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace << 20)
    return workspace


def _run(builder: Any, network: Any, config: Any, monitor: Monitor) -> Any:
    """Build on another thread, so that this one can hear Ctrl-C; TensorRT then stops at its next step."""
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


def _refusal(trt: Any, log: _Log, options: BuildOptions, workspace: int | None) -> EngineError:
    said = log.said()
    if re.search(r"could not find any implementation|out of memory|insufficient (memory|workspace)", said, re.IGNORECASE):
        limit = f"{workspace} MiB" if workspace else "TensorRT's default"
        return EngineError(
            f"{title(trt)} ran out of memory while building ({said}): close other programs, lower the largest batch (now "
            f"{options.batch[2]}), change the workspace limit (now {limit}), or train with a smaller image size"
        )
    return EngineError(f"{title(trt)} cannot build this engine: {said}; build with '--verbose-log FILE' to learn more")


def _load_timing_cache(trt: Any, config: Any, path: Path | None) -> Any:
    """The cache in use, or None (TensorRT for RTX has none); one that is damaged or of another device is started anew."""
    if path is None or trt.__name__ == "tensorrt_rtx":
        return None
    for data in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise EngineError(
            f"the timing cache {path} cannot be written ({error.strerror}): check its folder and the disk"
        ) from error


def _inspect(trt: Any, logger: Any, plan: bytes, gpu: Gpu | None) -> dict[str, Any]:
    """How many layers the engine has, and how many at each precision: what was got, not what was asked for."""
    if gpu is None:
        return {"engine_layers": "not inspected: no GPU", "precision": "not inspected: no GPU"}
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"{title(trt)} cannot load the engine it built on {gpu.name}: use a release that supports this GPU")
    inspector = engine.create_engine_inspector()
    layers = [inspector.get_layer_information(index, trt.LayerInformationFormat.JSON) for index in range(engine.num_layers)]
    return {"engine_layers": len(layers), "precision": dict(Counter(map(_layer_precision, layers)).most_common())}


def _layer_precision(layer: str) -> str:
    """The type of a layer's first output, in the words of TensorRT 10 (``Format/Datatype``) or 11 (``DataType``)."""
    try:
        fields = json.loads(layer)
        output = {key.lower(): str(value).lower() for key, value in fields["Outputs"][0].items()}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return "unknown"
    text = output.get("datatype") or output.get("format/datatype") or output.get("format") or ""
    names = {"int8": "int8", "half": "fp16", "fp16": "fp16", "float": "fp32", "fp32": "fp32", "bfloat16": "bf16"}
    return next((name for word, name in names.items() if re.search(rf"\b{word}\b", text)), "other")
