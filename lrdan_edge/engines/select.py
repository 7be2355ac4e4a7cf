"""Select the requested backend, or the fastest one that runs here, and say in one line which and why."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

from lrdan_edge.backends import BACKENDS
from lrdan_edge.backends.base import ANY_CORES, Backend, Cores
from lrdan_edge.backends.nvidia import find_gpu
from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.benchmark_report import BenchmarkReport
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.encoding import from_json
from lrdan_edge.bundle.names import BENCHMARK, graph_name
from lrdan_edge.bundle.spec import PRECISIONS, Precision
from lrdan_edge.engines.memory import require_memory
from lrdan_edge.engines.open import engines, open_engine
from lrdan_edge.errors import BackendError

_BENCH = Command("bench")
_ON_GPU = ("tensorrt int8", "tensorrt fp16", "tensorrt fp32")
_INT8_ON_PROCESSOR = ("openvino int8", "onnxruntime int8", "onnxruntime int8 (graph)")
_FP32_ON_PROCESSOR = ("onnxruntime fp32", "openvino fp32", "onnxruntime fp32 (graph)")


def preferred() -> tuple[str, ...]:
    """The order in which `auto` prefers backends until a benchmark has measured this machine, best first. Others come last.

    On a processor, int8 comes before fp32 only if the processor multiplies 8-bit integers faster. ONNX Runtime's GPU providers are
    not listed: only opening them shows whether their libraries are installed.
    """
    if processor().int8_is_faster:
        return (*_ON_GPU, *_INT8_ON_PROCESSOR, *_FP32_ON_PROCESSOR)
    return (*_ON_GPU, *_FP32_ON_PROCESSOR, *_INT8_ON_PROCESSOR)


@dataclass(frozen=True)
class BackendChoice:
    """A way to run the bundle.

    Attributes:
        title: Its name in tables: ``tensorrt int8``, or ``onnxruntime fp32 (graph)`` if no engine was built.
        backend: Which backend runs it.
        precision: The graph's precision, which also selects the threshold.
        open: Opens the backend; its only argument, `Cores`, is optional.
        because: Why it was chosen, in a few words.
        passed_over: The choices that were not taken, each with the reason.
        engine: The engine's file name below ``engines/``, or None if a graph runs without an engine.
    """

    title: str
    backend: str
    precision: Precision
    open: Callable[..., Backend]
    because: str = ""
    passed_over: tuple[str, ...] = ()
    engine: str | None = None

    def describe(self) -> str:
        """One line: which backend runs, why, and why not the others."""
        line = f"{self.title} ({self.because})" if self.because else self.title
        return f"{line}; passed over: {'; '.join(self.passed_over)}" if self.passed_over else line


def candidates(bundle: Bundle) -> tuple[list[BackendChoice], list[str]]:
    """Every way to run the bundle on this machine without PyTorch, and the engines that cannot run here, each with the reason."""
    require_memory(bundle)
    found: list[BackendChoice] = []
    unusable: list[str] = []
    for engine in engines(bundle):
        if engine.unusable_reason:
            unusable.append(f"{engine.title}: {engine.unusable_reason}, rebuild with '{engine.rebuild}'")
        else:
            opener = partial(open_engine, bundle, engine)
            found.append(
                BackendChoice(engine.title, engine.sidecar.target, engine.sidecar.precision, opener, engine=engine.name)
            )
    built = {(choice.backend, choice.precision) for choice in found}
    for precision in PRECISIONS:
        if graph_name(precision) not in bundle.manifest.files:
            continue
        if ("onnxruntime", precision) not in built:
            opener = partial(_open_onnxruntime, bundle, precision, "onnxruntime")
            found.append(BackendChoice(f"onnxruntime {precision} (graph)", "onnxruntime", precision, opener))
        if ("openvino", precision) not in built and find_spec("openvino"):
            found.append(
                BackendChoice(f"openvino {precision}", "openvino", precision, partial(_open_openvino, bundle, precision))
            )
        for name in _gpu_providers():
            found.append(
                BackendChoice(f"{name} {precision}", name, precision, partial(_open_onnxruntime, bundle, precision, name))
            )
    return found, unusable


def _gpu_providers() -> list[str]:
    """Backends that run ONNX Runtime on a GPU: those of this build; none if there is no GPU."""
    if find_gpu() is None:
        return []
    from lrdan_edge.backends.onnxruntime import gpu_backends

    return gpu_backends()


def choose(bundle: Bundle, backend: str = "auto", precision: Precision | None = None) -> BackendChoice:
    """Choose the requested backend, or the fastest that runs here. Measures nothing.

    Args:
        bundle: The bundle to run.
        backend: ``auto`` or one of `BACKENDS`.
        precision: Only this precision; None: the fastest.

    Raises:
        BackendError: No requested backend runs here, or a frame needs more memory than there is; the message says why.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise BackendError(f"there is no backend {backend!r}", "choose auto, {known}", known=", ".join(BACKENDS))
    if backend == "torch":
        require_memory(bundle)
        return _torch(bundle, precision)
    if backend == "null":
        return BackendChoice(
            "null", "null", precision or "fp32", partial(_open_null, bundle), "inspects nothing, measures the loop"
        )
    found, unusable = candidates(bundle)
    matching = [choice for choice in found if backend in ("auto", choice.backend) and precision in (None, choice.precision)]
    if not matching:
        asked = " ".join(filter(None, (backend if backend != "auto" else "", precision))) or "backend"
        reasons = f" ({'; '.join(unusable)})" if unusable else ""
        build = Command("build-engine", bundle=bundle.path)
        raise BackendError(f"no {asked} runs here{reasons}", "build one with '{command}'", command=build)
    report = fresh_benchmark(bundle)
    speeds = speeds_of(report) if report else {}
    measured = [choice for choice in matching if choice.title in speeds]
    first = min(matching, key=_rank)
    if not measured:
        stale = BENCHMARK in bundle.manifest.files and bundle.staleness("bench")
        why = f"the last benchmark is older than the bundle ({stale}); '{_BENCH}' finds the fastest" if stale else ""
        return replace(first, because=why, passed_over=tuple(unusable))
    best = max(measured, key=lambda choice: speeds[choice.title])
    since = [choice for choice in matching if choice.engine and choice.title not in speeds and not _refused(choice, report)]
    if first in since and _rank(first) < _rank(best):
        return replace(first, because=f"built since the last benchmark; '{_BENCH}' measures it", passed_over=tuple(unusable))
    unusable += [f"{choice.title}: built since the last benchmark" for choice in since]
    because = f"fastest in the last benchmark, {speeds[best.title]:.0f} frames/s"
    return replace(best, because=because, passed_over=tuple(unusable))


def _rank(choice: BackendChoice) -> int:
    order = preferred()
    return order.index(choice.title) if choice.title in order else len(order)


def _refused(choice: BackendChoice, report: BenchmarkReport | None) -> bool:
    """Whether the benchmark tried the engine and could not measure it. Its entries are ``title: reason``."""
    return report is not None and choice.title in {entry.partition(": ")[0] for entry in report.not_measured}


def fresh_benchmark(bundle: Bundle) -> BenchmarkReport | None:
    """The last benchmark, or None if it ran on another machine or the bundle has changed since."""
    if BENCHMARK not in bundle.manifest.files or bundle.staleness("bench"):
        return None
    report = from_json(bundle.read(BENCHMARK, _BENCH), BenchmarkReport, str(bundle.path / BENCHMARK))
    here = processor()
    same = report.machine == here.name and report.instruction_set in ("", here.instruction_set)
    return report if same else None


def speeds_of(report: BenchmarkReport) -> dict[str, float]:
    """Frames per second by title, at batch 1."""
    medians = {entry.title: entry.latency_ms.get("p50", 0.0) for entry in report.entries if entry.batch == 1}
    return {title: 1000 / median for title, median in medians.items() if 0 < median < float("inf")}


def _torch(bundle: Bundle, precision: Precision | None) -> BackendChoice:
    if precision not in (None, "fp32"):
        raise BackendError(
            f"the torch backend runs fp32, not {precision}", "leave the precision out, or choose another {backend}"
        )
    return BackendChoice("torch fp32", "torch", "fp32", partial(_open_torch, bundle), "the reference")


def _open_onnxruntime(bundle: Bundle, precision: Precision, backend: str, cores: Cores = ANY_CORES) -> Backend:
    from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend

    graph = bundle.read_processor_graph(precision) if backend == "onnxruntime" else bundle.read_graph(precision)
    return OnnxRuntimeBackend(graph, precision, cores=cores, name=backend)


def _open_openvino(bundle: Bundle, precision: Precision, cores: Cores = ANY_CORES) -> Backend:
    from lrdan_edge.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(bundle.read_processor_graph(precision), precision, cores=cores)


def _open_torch(bundle: Bundle, cores: Cores = ANY_CORES) -> Backend:
    from lrdan_edge.backends.torch import TorchBackend

    return TorchBackend(bundle, cores=cores)


def _open_null(bundle: Bundle, cores: Cores = ANY_CORES) -> Backend:  # noqa: ARG001 (it computes nothing)
    from lrdan_edge.backends.null import NullBackend

    return NullBackend(bundle.manifest.model.frame_shape, bundle.manifest.model.heatmap_shape)
