"""The build-engine stage: one graph, one target, one engine file with a sidecar that says what it fits. No torch here."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from lrdan_edge.bundle import ENGINES, GOLDEN, TIMING_CACHE, Bundle, engine_stage, graph_name, sha256_of
from lrdan_edge.errors import BackendError, EngineError, MissingExtraError
from lrdan_edge.manifest import SCHEMA_VERSION, EngineSidecar, Precision, to_json
from lrdan_edge.runtime.device import processor
from lrdan_edge.runtime.engines import load_engine
from lrdan_edge.runtime.golden import golden_frames, golden_scores, relative_difference
from lrdan_edge.runtime.nvidia import feature

Target = Literal["tensorrt", "onnxruntime"]
TARGETS: tuple[Target, ...] = ("tensorrt", "onnxruntime")

GOLDEN_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 3e-2, "int8": 1e-1}
"""Largest score difference on golden frames between an engine and the same graph run by ONNX Runtime."""


@dataclass(frozen=True)
class BuildRequest:
    """What to build.

    Attributes:
        precision: Which graph.
        target: What will run it.
        batch: Smallest, best and largest batch (TensorRT's profile).
        workspace_mib: TensorRT's workspace limit in MiB; None: from free memory.
        optimization_level: TensorRT's, 0 (builds fastest) to 5 (runs fastest); None: its own default.
        verbose_log: File for TensorRT's every message; None: nowhere.
    """

    precision: Precision
    target: Target = "tensorrt"
    batch: tuple[int, int, int] = (1, 1, 8)
    workspace_mib: int | None = None
    optimization_level: int | None = None
    verbose_log: Path | None = None


@dataclass(frozen=True)
class _Built:
    """What a target's builder made of a graph."""

    data: bytes
    suffix: str
    version: str
    device: str
    features: list[str]
    batch: tuple[int, int, int] | None
    details: dict[str, Any]


def build_engine(bundle: Bundle, request: BuildRequest, progress: Callable[[str, float], None] | None = None) -> str:
    """Build an engine into the bundle and check it on the golden frames where it can run here.

    Args:
        bundle: A bundle that has the graph.
        request: What to build.
        progress: Called with the builder's phase and the share done, 0 to 1.

    Returns:
        The engine's file name below ``engines/``.

    Raises:
        MissingStageError: The graph, or for its check the calibration, is missing.
        EngineError: The builder refuses the graph, or the engine's scores drift.
        MissingExtraError: The target is not installed here.
    """
    started = time.monotonic()  # the file's name depends on what is built, so the stage begins after the build
    graph = bundle.graph(request.precision)
    if request.target == "tensorrt":
        built = _build_tensorrt(graph, request, bundle.path / TIMING_CACHE, progress)
    else:
        built = _build_onnxruntime(graph, progress)
    here = processor()
    name = f"{request.target}-{request.precision}-{_slug(built)}{built.suffix}"
    inputs = {graph_name(request.precision): graph}
    with bundle.stage(
        engine_stage(name), command=_command(request), inputs=inputs, options=_options(request), started=started
    ) as stage:
        path = stage.path(f"{ENGINES}/{name}")
        path.write_bytes(built.data)
        sidecar = EngineSidecar(
            schema_version=SCHEMA_VERSION,
            target=request.target,
            target_version=built.version,
            precision=request.precision,
            graph_sha256=sha256_of(graph),
            engine_sha256=sha256_of(path),
            platform=here.platform,
            device=built.device,
            device_features=built.features,
            batch=built.batch,
            golden_check="not measured",
            details=built.details,
        )
        check = _check_golden(bundle, path, sidecar)
        stage.path(f"{ENGINES}/{name}.json").write_bytes(to_json(msgspec.structs.replace(sidecar, golden_check=check)))
        stage.results = {"bytes": len(built.data), "golden_check": check, **built.details}
    return name


def _build_onnxruntime(graph: Path, progress: Callable[[str, float], None] | None) -> _Built:
    from tempfile import TemporaryDirectory

    import onnxruntime

    from lrdan_edge.runtime.backends.onnxruntime import optimise

    with TemporaryDirectory() as folder:
        target = Path(folder) / "engine.onnx"
        optimise(graph, target)
        data = target.read_bytes()
    if progress:
        progress("optimise", 1.0)
    here = processor()
    return _Built(data, ".onnx", onnxruntime.__version__, here.name, here.features, None, {})


def _build_tensorrt(
    graph: Path, request: BuildRequest, timing_cache: Path, progress: Callable[[str, float], None] | None
) -> _Built:
    from lrdan_edge.export.tensorrt import BuildOptions, build_engine

    options = BuildOptions(
        batch=request.batch,
        workspace_mib=request.workspace_mib,
        optimization_level=request.optimization_level,
        timing_cache=timing_cache,
        verbose=request.verbose_log is not None,
        log_path=request.verbose_log,
    )
    built = build_engine(graph, options, progress)
    details = dict(built.details)
    capability = details.get("compute_capability")
    features = [feature(capability)] if capability else []
    return _Built(built.plan, ".plan", str(details["tensorrt"]), str(details["device"]), features, request.batch, details)


def _slug(built: _Built) -> str:
    """The device in a file's name: its model and best feature, or ``any`` for an engine built ahead of time."""
    words = f"{built.device} {built.features[-1]}" if built.features else "any"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def _check_golden(bundle: Bundle, path: Path, sidecar: EngineSidecar) -> float | str:
    """Run the new engine on the golden frames.

    Returns:
        The largest relative score difference, or why it could not be measured here.

    Raises:
        EngineError: A score is not finite, or drifts beyond `GOLDEN_TOLERANCE`.
    """
    if f"{GOLDEN}/scores.json" not in bundle.manifest.files or bundle.staleness("calibrate"):
        return "not measured: no golden frames of this model yet (lrdan-edge calibrate makes them)"
    frames = golden_frames(bundle)
    try:
        with load_engine(path, sidecar) as backend:
            actual = backend.infer(frames, heatmap=False).score
    except (BackendError, EngineError, MissingExtraError) as error:
        if sidecar.target == "tensorrt":  # built ahead of time on a machine without a GPU
            return f"not measured: {error}"
        raise
    worst = relative_difference(actual, np.array(golden_scores(bundle).scores[sidecar.precision], np.float32))
    if not worst <= GOLDEN_TOLERANCE[sidecar.precision]:
        raise EngineError(
            f"the {sidecar.target} {sidecar.precision} engine's scores differ from the graph's by {worst:.1%} on the golden "
            f"frames (bound {GOLDEN_TOLERANCE[sidecar.precision]:.1%}): it was not kept; build another precision"
        )
    return worst


def _options(request: BuildRequest) -> dict[str, Any]:
    options: dict[str, Any] = {"target": request.target, "precision": request.precision}
    if request.target == "tensorrt":
        options |= {
            "batch": list(request.batch),
            "workspace_mib": request.workspace_mib,
            "optimization_level": request.optimization_level,
        }
    return options


def _command(request: BuildRequest) -> str:
    command = f"lrdan-edge build-engine --{request.precision} --target {request.target}"
    if request.target == "tensorrt":
        command += f" --batch {':'.join(map(str, request.batch))}"
        command += f" --workspace {request.workspace_mib}" if request.workspace_mib else ""
        command += f" --optimization-level {request.optimization_level}" if request.optimization_level is not None else ""
    return command
