"""Whether an engine fits this machine, told from its sidecar before a byte of the engine is looked at."""

import re
from importlib.util import find_spec

from lrdan_edge.backends.nvidia import Gpu, feature, find_gpu, find_tensorrt, product, title
from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.engine_sidecar import EngineSidecar
from lrdan_edge.errors import LrdanError

_CPU_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def misfit(sidecar: EngineSidecar) -> str | None:
    """What about the engine does not fit this machine, in a few words, or None."""
    here = processor()
    if sidecar.platform != here.platform:
        return f"it was built on {sidecar.platform}, this is {here.platform}"
    if sidecar.target == "tensorrt":
        return _tensorrt_misfit(sidecar)
    try:
        version = runtime_version(sidecar.target)
    except LrdanError as error:
        return str(error)
    runtime = _CPU_RUNTIMES[sidecar.target]
    if sidecar.target_version != version:
        return f"it was built by {runtime} {sidecar.target_version}, this is {version}"
    if sidecar.device_features != here.features:
        return f"it was built for {sidecar.device} ({' '.join(sidecar.device_features)}), this is {here.name}"
    return None


def runtime_version(target: str) -> str:
    """Version of ONNX Runtime or OpenVINO here.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    if target == "openvino":
        from lrdan_edge.backends.openvino import openvino_version

        return openvino_version()
    import onnxruntime

    return str(onnxruntime.__version__)


def _tensorrt_misfit(sidecar: EngineSidecar) -> str | None:
    """The cheap checks first: this runs at every start, and importing TensorRT takes longest."""
    gpu = find_gpu()
    if gpu is None:
        return "no NVIDIA GPU is found here"
    if (gpu_misfit := _gpu_misfit(sidecar, gpu)) is not None:
        return gpu_misfit
    if find_spec("pycuda") is None:
        return "PyCUDA is not installed here (pip install pycuda)"
    try:
        trt = find_tensorrt()
    except LrdanError as error:
        return str(error)
    module, version = str(sidecar.details.get("module", "tensorrt")), str(trt.__version__)
    same = sidecar.target_version == version
    if sidecar.options.get("version_compatible"):  # then any later TensorRT runs it too
        same = _numbers(sidecar.target_version) <= _numbers(version)
    if module != trt.__name__ or not same:
        return f"it was built by {product(module, sidecar.target_version)}, this is {title(trt)}"
    return None


def _gpu_misfit(sidecar: EngineSidecar, gpu: Gpu) -> str | None:
    """Features are the compute capability the engine needs; none: built ahead of time, for more than one GPU."""
    here = feature(gpu.compute_capability)
    for needed in sidecar.device_features:
        least = re.fullmatch(r"sm(\d+\.\d+)\+", needed)
        fits = _numbers(least[1]) <= _numbers(gpu.compute_capability) if least else needed == here
        if not fits:
            return f"it was built for {sidecar.device} ({needed}), this is {gpu.name} ({here})"
    if sidecar.device_features and not sidecar.options.get("hardware_compatible") and sidecar.device != gpu.name:
        return f"it was built for {sidecar.device}, this is {gpu.name}"  # kernels were chosen for the other model
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
