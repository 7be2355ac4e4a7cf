"""NVIDIA software and hardware of this machine: TensorRT's Python module, or how to install it, and the GPU."""

import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lrdan_edge.backends.processor import available_memory
from lrdan_edge.bundle.command import Command
from lrdan_edge.errors import EngineError, LrdanError, MissingExtraError

MODULES = ("tensorrt", "tensorrt_rtx")
"""The Python modules of TensorRT and of TensorRT for RTX, which have the same API."""

_DRIVER = "libcuda.so.1"
_INTEGRATED, _MAJOR, _MINOR = 18, 75, 76  # CUdevice_attribute


def find_tensorrt() -> ModuleType:
    """TensorRT's Python module, or else that of TensorRT for RTX.

    Raises:
        MissingExtraError: Neither is installed; the message gives the command that installs one.
        EngineError: It is installed but does not load, it must be installed another way (Jetson), or there is no NVIDIA driver.
    """
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name == name:
                continue
            raise EngineError(f"{name} is installed but does not load ({error})", "install it again") from error
        if module.__file__ is not None:  # Python also imports any folder of this name on its path
            return module
    raise how_to_install(Path("/"))


def describe_tensorrt(trt: ModuleType) -> str:
    """Name and version of the module that `find_tensorrt` found, for messages."""
    return product_name(trt.__name__, trt.__version__)


def product_name(module: str, version: str) -> str:
    """Name and version of one of `MODULES`, as NVIDIA writes them: ``TensorRT for RTX 1.7.1``."""
    return f"TensorRT{' for RTX' if module == 'tensorrt_rtx' else ''} {version}"


def how_to_install(root: Path) -> LrdanError:
    """The error that says how to install TensorRT on this machine, whose file system is mounted at `root`."""
    compatible = root / "proc/device-tree/compatible"
    tegra = compatible.is_file() and b"nvidia,tegra" in compatible.read_bytes()
    if tegra or (root / "etc/nv_tegra_release").exists():
        installed = any(root.glob("usr/lib/python3*/dist-packages/tensorrt"))
        where = "is installed only for the system's Python" if installed else "comes with JetPack and is not installed"
        first = "" if installed else "sudo apt-get install python3-libnvinfer, and "
        return EngineError(
            f"TensorRT's Python module {where}",
            "{first}make the environment with 'python3 -m venv --system-site-packages'",
            first=first,
        )
    gpus = " ".join(path.read_text(errors="replace") for path in root.glob("proc/driver/nvidia/gpus/*/information"))
    if "GeForce RTX" in gpus:
        return EngineError(
            "neither tensorrt nor tensorrt_rtx is installed",
            "pip install 'lrdan-edge[tensorrt]', or, for the smaller TensorRT for RTX, pip install tensorrt-rtx pycuda",
        )
    if any((root / sign).exists() for sign in ("proc/driver/nvidia/version", "dev/dxg")):
        return MissingExtraError("tensorrt", "tensorrt", "TensorRT")
    return EngineError(
        "TensorRT is not installed, and no NVIDIA driver is found on this machine",
        "build for its processor with '{command}', or on the machine with the GPU after pip install 'lrdan-edge[tensorrt]'",
        command=Command("build-engine", target="onnxruntime"),
    )


def logger_for(trt: ModuleType, sink: Callable[[int, str], None]) -> Any:
    """A TensorRT logger that passes every message and its severity (0 worst, 4 verbose) to `sink`, which must not raise."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            sink(int(severity), msg)

    return Logger()


def runtime_for(trt: ModuleType, logger: Any, *, dla_core: int | None = None, host_code: bool = False) -> Any:
    """TensorRT's runtime, configured for one engine.

    Args:
        trt: TensorRT's module.
        logger: The logger, made by `logger_for`.
        dla_core: The DLA core that the engine uses; None: none.
        host_code: Whether the engine may contain code for the processor, as version-compatible engines do.

    Raises:
        EngineError: TensorRT finds no GPU that it can use.
    """
    try:
        runtime = trt.Runtime(logger)
    except TypeError as error:  # how pybind11 reports a null pointer
        raise EngineError(
            f"{describe_tensorrt(trt)} cannot start its runtime: it needs an NVIDIA GPU and a driver new enough for it",
            "update the driver",
        ) from error
    if dla_core is not None:
        runtime.DLA_core = dla_core
    if host_code:
        runtime.engine_host_code_allowed = True
    return runtime


@dataclass(frozen=True)
class Gpu:
    """The first visible GPU.

    Attributes:
        name: The driver's name for it.
        compute_capability: Such as ``8.7``.
        cuda: The newest CUDA version that the driver supports, such as ``12.6``.
        integrated: Whether it shares its memory with the processor, as on a Jetson.
    """

    name: str
    compute_capability: str
    cuda: str
    integrated: bool

    def free_bytes(self) -> int:
        """Memory that is free now, in bytes; 0 if unknown. Slow: except on a Jetson, this makes a CUDA context."""
        return available_memory() or 0 if self.integrated else _free_device_memory()


def gpu_feature(compute_capability: str) -> str:
    """The compute capability, as an engine's sidecar lists it among the device features: ``sm8.7``."""
    return f"sm{compute_capability}"


def find_gpu() -> Gpu | None:
    """The first visible GPU; None without a driver or a GPU. Asks the driver directly, so that building needs no PyCUDA."""
    try:
        driver: Any = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, version, major, minor, integrated = (ctypes.c_int() for _ in range(5))
    name = ctypes.create_string_buffer(256)
    if (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDriverGetVersion(ctypes.byref(version))
    ):
        return None
    for value, attribute in ((major, _MAJOR), (minor, _MINOR), (integrated, _INTEGRATED)):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
        integrated=bool(integrated.value),
    )


def _free_device_memory() -> int:
    driver: Any = ctypes.CDLL(_DRIVER)
    device, context, free, total = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return 0
    driver.cuCtxPushCurrent_v2(context)
    driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    driver.cuDevicePrimaryCtxRelease_v2(device)
    return free.value
