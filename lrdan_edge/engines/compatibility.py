"""Whether an engine is compatible with this machine. Reads only its sidecar, no byte of the engine."""

import re
from importlib.util import find_spec

from lrdan_edge.backends.nvidia import Gpu, describe_tensorrt, find_gpu, find_tensorrt, gpu_feature, product_name
from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.engine_sidecar import EngineSidecar
from lrdan_edge.errors import LrdanError

_CPU_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def incompatibility_of(sidecar: EngineSidecar) -> str | None:
    """Why the engine does not run on this machine, in a few words, or None."""
    here = processor()
    if sidecar.platform != here.platform:
        return f"it was built on {sidecar.platform}, this is {here.platform}"
    if sidecar.target == "tensorrt":
        return _tensorrt_incompatibility(sidecar)
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
    """The version of ONNX Runtime or OpenVINO on this machine.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    if target == "openvino":
        from lrdan_edge.backends.openvino import openvino_version

        return openvino_version()
    import onnxruntime

    return str(onnxruntime.__version__)


def _tensorrt_incompatibility(sidecar: EngineSidecar) -> str | None:
    """Run the cheapest checks first: they run at every start, and importing TensorRT takes longest."""
    gpu = find_gpu()
    if gpu is None:
        return "no NVIDIA GPU is found here"
    if (reason := _gpu_incompatibility(sidecar, gpu)) is not None:
        return reason
    if find_spec("pycuda") is None:
        return "PyCUDA is not installed here (pip install pycuda)"
    try:
        trt = find_tensorrt()
    except LrdanError as error:
        return str(error)
    module, version = str(sidecar.details.get("module", "tensorrt")), str(trt.__version__)
    same = sidecar.target_version == version
    if sidecar.options.get("version_compatible"):  # later versions of TensorRT run it too
        same = _numbers(sidecar.target_version) <= _numbers(version)
    if module != trt.__name__ or not same:
        return f"it was built by {product_name(module, sidecar.target_version)}, this is {describe_tensorrt(trt)}"
    return None


def _gpu_incompatibility(sidecar: EngineSidecar, gpu: Gpu) -> str | None:
    """Compare the GPU. Device features list the compute capability that the engine needs; an empty list: it needs no particular one."""
    here = gpu_feature(gpu.compute_capability)
    for needed in sidecar.device_features:
        least = re.fullmatch(r"sm(\d+\.\d+)\+", needed)
        compatible = _numbers(least[1]) <= _numbers(gpu.compute_capability) if least else needed == here
        if not compatible:
            return f"it was built for {sidecar.device} ({needed}), this is {gpu.name} ({here})"
    if sidecar.device_features and not sidecar.options.get("hardware_compatible") and sidecar.device != gpu.name:
        return f"it was built for {sidecar.device}, this is {gpu.name}"  # its kernels were chosen for the other model
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
