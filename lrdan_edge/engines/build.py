"""Build a signed engine from one graph for one target, with a sidecar that says where it runs. Needs no torch."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from lrdan_edge.backends.layers import count_precisions
from lrdan_edge.backends.nvidia import gpu_feature
from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.encoding import SCHEMA_VERSION, to_json
from lrdan_edge.bundle.engine_sidecar import EngineLayer, EngineSidecar, EngineTarget
from lrdan_edge.bundle.names import ENGINES, TIMING_CACHE, engine_stage, graph_name
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.engines.compatibility import incompatibility_of, runtime_version
from lrdan_edge.engines.golden import check_against_graph, no_golden_frames
from lrdan_edge.engines.keys import ensure_keys
from lrdan_edge.engines.memory import require_memory
from lrdan_edge.engines.open import engine, engine_bytes, load_engine, sidecar_of, weights_for
from lrdan_edge.engines.tensorrt.options import BuildOptions
from lrdan_edge.engines.tensorrt.refit import tensorrt_settings, with_weights
from lrdan_edge.engines.trust import signature_file, signature_of
from lrdan_edge.errors import EngineError, IncompatibleEngineError, UntrustedEngineError

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class BuildRequest:
    """The engine to build.

    Attributes:
        precision: The precision of the graph.
        target: The runtime that will run the engine.
        options: TensorRT's build options; the other targets have none.
    """

    precision: Precision
    target: EngineTarget = "tensorrt"
    options: BuildOptions = field(default_factory=BuildOptions)


@dataclass(frozen=True)
class _Built:
    """The result of a target's builder."""

    data: bytes
    suffix: str
    version: str
    device: str
    features: list[str]
    batch: tuple[int, int, int] | None
    layers: list[EngineLayer]
    details: dict[str, Any]


def build_engine(bundle: Bundle, request: BuildRequest, progress: Progress | None = None) -> str:
    """Build an engine in the bundle, check it on the golden frames if it can run here, and sign it.

    Args:
        bundle: A bundle that has the graph.
        request: The engine to build.
        progress: Called with the builder's phase and the fraction done, 0 to 1.

    Returns:
        The engine's file name below ``engines/``.

    Raises:
        MissingStageError: The graph is missing.
        EngineError: The builder cannot build the graph, the engine's scores drift, or the signing keys cannot be used.
        BackendError: The backend cannot load the engine, or fails.
        MissingExtraError: The target is not installed here.
    """
    started = time.monotonic()  # the stage begins after the build, because the file's name depends on the result
    ensure_keys()
    require_memory(bundle)
    graph = bundle.read_graph(request.precision)
    if request.target == "tensorrt":
        built = _build_tensorrt(graph, request, bundle.path / TIMING_CACHE, progress)
    elif request.target == "openvino":
        built = _build_openvino(bundle.read_processor_graph(request.precision), request.precision, progress)
    else:
        built = _build_onnxruntime(bundle.read_processor_graph(request.precision), request.precision, progress)
    name = f"{request.target}-{request.precision}-{_slug(built)}{built.suffix}"
    sidecar = EngineSidecar(
        schema_version=SCHEMA_VERSION,
        target=request.target,
        target_version=built.version,
        precision=request.precision,
        graph_sha256=sha256(graph).hexdigest(),
        engine_sha256="",
        platform=processor().platform,
        device=built.device,
        device_features=built.features,
        batch=built.batch,
        built="",
        options=_options(request),
        layers=built.layers,
        golden_check="not measured",
        details=built.details,
    )
    _commit(bundle, name, built.data, sidecar, _command(request), started)
    return name


def refit_engine(bundle: Bundle, name: str) -> None:
    """Put the bundle's current weights into an engine that was built with `refit`; check and sign it as after a build.

    Args:
        bundle: A bundle whose graph differs from the engine's only in weights.
        name: The engine's file name below ``engines/``.

    Raises:
        MissingStageError: The bundle has no such engine.
        IncompatibleEngineError: The engine does not run on this machine.
        UntrustedEngineError: It may not be loaded here.
        EngineError: It was built without `refit`, or its scores drift afterwards.
        MissingExtraError: TensorRT is not installed.
    """
    started = time.monotonic()
    found = engine(bundle, name)
    if not found.sidecar.options.get("refit"):
        problem, again = f"engine {name} cannot take new weights: it was built without refit", "build it again with {refit:on}"
        raise EngineError(problem, again)
    reason = incompatibility_of(found.sidecar)  # ignores staleness: an engine older than its graph may be refitted
    if reason or not found.trust.trusted:
        kind = IncompatibleEngineError if reason else UntrustedEngineError
        problem = f"engine {name} cannot take new weights here: {reason or found.trust.reason}"
        raise kind(problem, "build it again with '{command}'", command=found.rebuild)
    graph = bundle.read_graph(found.sidecar.precision)
    data = with_weights(engine_bytes(bundle, found), graph, **tensorrt_settings(found.sidecar))
    options = found.sidecar.options | {"strip_weights": False}
    sidecar = msgspec.structs.replace(found.sidecar, graph_sha256=sha256(graph).hexdigest(), options=options)
    _commit(bundle, name, data, sidecar, found.command, started)


def _commit(bundle: Bundle, name: str, data: bytes, sidecar: EngineSidecar, command: str, started: float) -> None:
    """Check an engine on the golden frames, and commit it with its sidecar and signature."""
    inputs = {graph_name(sidecar.precision): bundle.path / graph_name(sidecar.precision)}
    with bundle.stage(engine_stage(name), command=command, inputs=inputs, options=sidecar.options, started=started) as stage:
        stage.path(f"{ENGINES}/{name}").write_bytes(data)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        sidecar = msgspec.structs.replace(sidecar, engine_sha256=sha256(data).hexdigest(), built=now)
        check = _check_golden(bundle, data, sidecar)
        written = to_json(msgspec.structs.replace(sidecar, golden_check=check))
        stage.path(sidecar_of(name)).write_bytes(written)
        stage.unlisted_path(signature_of(name)).write_bytes(signature_file(written))
        stage.results = {"bytes": len(data), "golden_check": check, **sidecar.details}


def _build_onnxruntime(graph: bytes, precision: Precision, progress: Progress | None) -> _Built:
    from lrdan_edge.backends.onnxruntime import optimise, run_layers

    with TemporaryDirectory() as folder:
        target = Path(folder) / "engine.onnx"
        optimise(graph, precision, target)
        data = target.read_bytes()
    layers = run_layers(data)
    if progress:
        progress("optimise", 1.0)
    return _for_processor(graph, data, ".onnx", runtime_version("onnxruntime"), layers)


def _build_openvino(graph: bytes, precision: Precision, progress: Progress | None) -> _Built:
    from lrdan_edge.backends.openvino import compile_graph, openvino_version

    data, layers = compile_graph(graph, precision)
    if progress:
        progress("compile", 1.0)
    return _for_processor(graph, data, ".blob", openvino_version(), layers)


def _for_processor(graph: bytes, data: bytes, suffix: str, version: str, layers: list[EngineLayer]) -> _Built:
    here = processor()
    source = sha256(graph).hexdigest()
    details = {"engine_layers": len(layers), "precision": count_precisions(layers), "source_sha256": source}
    return _Built(data, suffix, version, here.name, here.features, None, layers, details)


def _build_tensorrt(graph: bytes, request: BuildRequest, timing_cache: Path, progress: Progress | None) -> _Built:
    from lrdan_edge.engines.tensorrt.build import build_plan

    options = replace(request.options, timing_cache=timing_cache)
    built = build_plan(graph, options, progress, graph_name(request.precision))
    details = dict(built.details)
    version, device = str(details["tensorrt"]), str(details["device"])
    batch = (options.smallest, options.batches[0][1], options.largest)
    return _Built(built.plan, ".plan", version, device, _gpu_features(details, options), batch, built.layers, details)


def _gpu_features(details: dict[str, Any], options: BuildOptions) -> list[str]:
    """GPU features that the engine needs; none if it was built ahead of time, or by TensorRT for RTX for every GPU."""
    capability = details.get("compute_capability")
    if not capability or (options.hardware_compatible and details["module"] == "tensorrt_rtx"):
        return []
    return ["sm8.0+"] if options.hardware_compatible == "ampere-plus" else [gpu_feature(capability)]


def _slug(built: _Built) -> str:
    """The device as part of a file name: its model and best feature, or ``any`` for an engine built ahead of time."""
    words = f"{built.device} {built.features[-1]}" if built.features else "any"
    if dla := built.details.get("dla"):
        words += f" dla{dla['core']}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def _check_golden(bundle: Bundle, data: bytes, sidecar: EngineSidecar) -> float | str:
    """The largest relative difference of the new engine's scores on the golden frames, or why it could not be measured here."""
    if reason := incompatibility_of(sidecar):  # built ahead of time for another machine, or without PyCUDA
        return f"not measured: {reason}"
    with load_engine(data, sidecar, weights_for(bundle, sidecar)) as backend:
        if reason := no_golden_frames(bundle):
            return f"not measured: {reason}"
        return check_against_graph(bundle, backend, sidecar.precision)


def _options(request: BuildRequest) -> dict[str, Any]:
    options: dict[str, Any] = {"target": request.target, "precision": request.precision}
    return options | (request.options.record() if request.target == "tensorrt" else {})


def _command(request: BuildRequest) -> str:
    command = Command("build-engine", **{request.precision: True}, target=request.target)
    return str(command.with_options(**request.options.command_options()) if request.target == "tensorrt" else command)
