"""Pass `BuildOptions` to TensorRT's builder, if this TensorRT and this device support them."""

from typing import Any

from lrdan_edge.backends.nvidia import Gpu, describe_tensorrt
from lrdan_edge.engines.tensorrt.options import BuildOptions
from lrdan_edge.errors import EngineError

_HARDWARE = {"ampere-plus": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}


def configure(
    trt: Any, builder: Any, network: Any, config: Any, frame: tuple[int, int, int], options: BuildOptions, gpu: Gpu | None
) -> dict[str, Any]:
    """Set optimisation profiles, limits, optimisation level and compatibility.

    Args:
        trt: TensorRT's module.
        builder: TensorRT's builder.
        network: The parsed network.
        config: The configuration to set.
        frame: (H, W, C) of a frame.
        options: The build options.
        gpu: The GPU, or None to build ahead of time.

    Returns:
        Settings that depend on this machine, for the sidecar.

    Raises:
        EngineError: This TensorRT or this device does not support an option.
    """
    _require_supported(trt, options, gpu)
    for sizes in options.batches:
        optimization_profile = builder.create_optimization_profile()
        optimization_profile.set_shape("frames", *((count, *frame) for count in sizes))
        config.add_optimization_profile(optimization_profile)
    # By default the inspector reports only the names of layers, not their precisions.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TF32, on by default, would round the inputs of float32 layers to ten bits; layers are kept in float32 for precision.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible and not is_rtx(trt):
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, _HARDWARE[options.hardware_compatible])
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        if not options.refit:  # the same weights are put back, so TensorRT may optimise for their values
            config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    workspace = options.workspace_mib or (max(gpu.free_bytes() // 2 >> 20, 64) if gpu else None)
    if workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace << 20)
    facts: dict[str, Any] = {"workspace_mib": workspace or "TensorRT's default"}
    if options.dla_core is not None:
        facts["dla"] = use_dla(trt, builder, network, config, options.dla_core)
    return facts


def is_rtx(trt: Any) -> bool:
    """Whether this is TensorRT for RTX."""
    return str(trt.__name__) == "tensorrt_rtx"


def adjust_parser_for_dla(trt: Any, parser: Any) -> None:
    """Ask the parser for layers that DLA can run, if this parser can do so (TensorRT 11)."""
    if (flag := getattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA", None)) is not None:
        parser.set_flag(flag)


def use_dla(trt: Any, builder: Any, network: Any, config: Any, core: int) -> dict[str, Any]:
    """Run every layer that the DLA core supports on it, and the rest on the GPU.

    Returns:
        The core, how many layers it runs, and the names and types of the other layers.

    Raises:
        EngineError: This device has no such core, or the core supports none of the layers.
    """
    cores = int(builder.num_DLA_cores)
    if core >= cores:
        has = f"{cores} DLA core{'s' if cores > 1 else ''}, 0 to {cores - 1}" if cores else "no DLA"
        raise EngineError(
            f"{describe_tensorrt(trt)} finds {has} on this device (Orin and Xavier have it with TensorRT 10.3 to 10.7, AGX Orin "
            "with 11.4.1 too, Thor never)",
            "choose another core than {core}" if cores else "leave out {dla_core}",
            core=core,
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    fallbacks = [f"{layer.name} ({layer.type.name})" for layer in layers if not config.can_run_on_DLA(layer)]
    if len(fallbacks) == len(layers):
        raise EngineError(
            f"DLA supports none of this graph's {len(layers)} layers with {describe_tensorrt(trt)}",
            "leave out {dla_core}, or build fp16 or int8",
        )
    return {"core": core, "layers_on_dla": len(layers) - len(fallbacks), "gpu_fallbacks": fallbacks}


def _require_supported(trt: Any, options: BuildOptions, gpu: Gpu | None) -> None:
    version = describe_tensorrt(trt)
    if options.version_compatible and is_rtx(trt):
        raise EngineError(f"{version} cannot build version-compatible engines", "leave out {version_compatible}")
    level = _HARDWARE.get(options.hardware_compatible or "")
    if level and not hasattr(trt.HardwareCompatibilityLevel, level):
        problem = f"{version} has no hardware compatibility {options.hardware_compatible}"
        raise EngineError(problem, "leave out {hardware_compatible}, or choose ampere-plus")
    if (options.refit or options.strip_weights) and gpu is None:
        kind, fix = ("refittable", "leave out {refit}") if options.refit else ("stripped", "leave out {strip_weights}")
        raise EngineError(f"{version} builds {kind} engines only on a GPU, and this machine has none", fix)
