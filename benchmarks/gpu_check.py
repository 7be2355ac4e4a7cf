"""Everything that only a GPU can show, in one call: engines, parity, latency, throughput, and the loop.

    python benchmarks/gpu_check.py [BUNDLE] [--images DIR]

BUNDLE is a calibrated bundle; without one, a small one is trained first, on DIR (laid out as for ``lrdan-edge train``) or on
painted surfaces. Its fp32, fp16 and int8 graphs are built with whatever TensorRT is installed (TensorRT for RTX counts), held
against PyTorch on real images, and timed beside PyTorch eager and torch.compile; the compared take turns. What cannot run here is
in the table with its reason. Writes ``benchmarks/results/gpu-check.json`` and ``.md``.

``--stand-in`` puts PyTorch in TensorRT's place (`gpu_standin`), for GPUs that no TensorRT at hand supports: the backend around the
engine is tried and timed all the same. Writes ``gpu-check-stand-in.json`` and ``.md``.

A machine with a driver, nvcc and PyTorch is made ready by

    pip install -e '.[train,tensorrt]' cuda-bindings     # or tensorrt_rtx in place of tensorrt
    python benchmarks/gpu_check.py --images DIR
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import msgspec
import numpy as np
from gpu_bare import BareEngine
from loop import Memory, bare, loop, rate
from surfaces import surfaces

from lrdan_edge import Bundle, Inspector
from lrdan_edge.backends.base import ANY_CORES, Backend, Cores
from lrdan_edge.backends.nvidia import describe_tensorrt, find_gpu, find_tensorrt
from lrdan_edge.backends.tensorrt import TensorRTBackend
from lrdan_edge.backends.tensorrt_engine import GpuContext
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.spec import PRECISIONS, Precision
from lrdan_edge.bundle.stage import versions
from lrdan_edge.calibration.calibrate import calibrate
from lrdan_edge.data.images import Frame
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.golden import golden_frames
from lrdan_edge.engines.open import engine, engine_bytes, open_engine
from lrdan_edge.engines.select import BackendChoice
from lrdan_edge.engines.tensorrt.options import BuildOptions
from lrdan_edge.errors import BackendError, LrdanError
from lrdan_edge.export.graph import GRAPHS, export
from lrdan_edge.export.parity import compare
from lrdan_edge.export.reference import reference_images, torch_outputs
from lrdan_edge.model.deployed import load_network
from lrdan_edge.runtime.verdict import Thresholder
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.trainer import train

RESULTS = Path(__file__).parent / "results"
BATCHES = (1, 4, 16, 64)
ROUNDS, CALLS = 7, 50

T = TypeVar("T")


class Row(msgspec.Struct):
    """One figure, or why there is none.

    Attributes:
        part: Which part of the check.
        what: What was measured.
        figure: The figure with its unit, or what kept it from being taken.
        value: It as a number, or None.
        took: Whether it was taken.
    """

    part: str
    what: str
    figure: str
    value: float | None = None
    took: bool = True


@dataclass
class Check:
    """The bundle under check and what has been found."""

    bundle: Bundle
    rounds: int = ROUNDS
    calls: int = CALLS
    stand_in: bool = False
    engines: dict[Precision, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def attempt(self, part: str, what: str, make: Callable[[], T]) -> T | None:
        """What `make` gives; or None, and a row that says why it gives nothing."""
        try:
            return make()
        except LrdanError as error:
            said = str(error)
        except Exception as error:  # a driver's or a compiler's own error must not end the check
            said = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
        self.rows.append(Row(part, what, f"not run: {said}"[:300], took=False))
        return None

    def add(self, part: str, what: str, measure: Callable[[], Iterator[Row]]) -> None:
        """The rows that `measure` gives up to where it fails, if it does."""

        def collect() -> None:
            for row in measure():
                self.rows.append(row)

        self.attempt(part, what, collect)

    def engine_of(self, precision: Precision) -> str:
        """The engine's name.

        Raises:
            BackendError: It was not built.
        """
        if precision not in self.engines:
            raise BackendError(f"there is no {precision} engine")
        return self.engines[precision]

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What is checked: all, or those that PyTorch computes too."""
        return GRAPHS if self.stand_in else PRECISIONS

    @property
    def title(self) -> str:
        """What runs behind the TensorRT backend."""
        return "stand-in" if self.stand_in else "TensorRT"

    def open(self, precision: Precision, cores: Cores = ANY_CORES) -> Backend:
        if self.stand_in:
            return TensorRTBackend(self.plan(precision), precision, spin=cores.spin is True)
        return open_engine(self.bundle, engine(self.bundle, self.engine_of(precision)), cores)

    def plan(self, precision: Precision) -> bytes:
        if self.stand_in:
            return precision.encode()
        return engine_bytes(self.bundle, engine(self.bundle, self.engine_of(precision)))

    def inspector(self, precision: Precision) -> Inspector:
        thresholder = Thresholder(self.bundle.decision().graphs[precision], None, self.bundle.manifest.model.region_fractions)

        def opener(cores: Cores = ANY_CORES) -> Backend:
            return self.open(precision, cores)

        choice = BackendChoice(f"{self.title} {precision}", "tensorrt", precision, opener)
        return Inspector(self.bundle, opener(), thresholder, choice)


def small_bundle(images: Path | None, folder: Path, epochs: int | None) -> Bundle:
    """Train, export and calibrate at 256x256."""
    data = images or surfaces(folder / "data")
    bundle = train(data, folder / "bundle", TrainOptions(recipe="restoration", image_size=(256, 256), epochs=epochs))
    export(bundle)
    calibrate(bundle, false_reject_rate=0.1)
    return Bundle.open(bundle.path)


def environment() -> Iterator[Row]:
    import torch

    gpu = find_gpu()
    said = f"{gpu.name}, compute capability {gpu.compute_capability}, CUDA up to {gpu.cuda}" if gpu else "none"
    yield Row("machine", "GPU", said, took=gpu is not None)
    yield Row("machine", "PyTorch", f"{torch.__version__}, CUDA {'usable' if torch.cuda.is_available() else 'not usable'}")
    yield Row("machine", "TensorRT", describe_tensorrt(find_tensorrt()))


def build(check: Check, precision: Precision) -> Iterator[Row]:
    begun = time.monotonic()
    request = BuildRequest(precision, options=BuildOptions(batches=((1, 1, 1), (2, 8, max(BATCHES)))))
    check.engines[precision] = build_engine(check.bundle, request)
    found = engine(check.bundle, check.engines[precision]).sidecar
    seconds = time.monotonic() - begun
    yield Row("build", precision, f"{seconds:.1f} s; golden frames: {found.golden_check}", seconds)


def parity(check: Check, precision: Precision) -> Iterator[Row]:
    reference = reference_images(check.bundle)
    expected = torch_outputs(load_network(check.bundle), reference.frames)
    with check.open(precision) as backend:
        score, heatmap, _ = backend.infer(reference.frames)
    assert heatmap is not None
    unit = check.bundle.manifest.scoring.unit
    found = compare(precision, "tensorrt", (score, heatmap), expected, unit=unit, defective=reference.defective)
    broken = f"; BROKEN: {', '.join(found.broken())}" if precision != "int8" and found.broken() else ""
    auroc = "" if found.auroc_difference is None else f", AUROC differs by {found.auroc_difference:.4f}"
    said = f"score differs by {found.score_max:.1e} at most, {found.score_mean:.1e} on average{auroc}"
    yield Row("parity", f"{precision}, {reference.description}", said + broken, found.score_max)


def frames_of(check: Check, batch: int) -> Frame:
    frames = golden_frames(check.bundle)
    return np.ascontiguousarray(frames[np.arange(batch) % len(frames)])


def host_to_host(run: Callable[[], Any], calls: int) -> float:
    """Milliseconds of one call, the median."""
    durations = []
    for _ in range(calls):
        begun = time.perf_counter()
        run()
        durations.append(time.perf_counter() - begun)
    return 1e3 * median(durations)


def contenders(check: Check, batch: int) -> Iterator[tuple[str, Callable[[], Any], Callable[[], None]]]:
    """Title, one call, and what closes it, of each that runs here; a row for each that does not."""
    frames = frames_of(check, batch)

    def torch_call(kind: str) -> Callable[[], Any]:
        import torch

        if not torch.cuda.is_available():
            raise BackendError("PyTorch finds no GPU")
        module: Any = load_network(check.bundle, "cuda").eval()
        if kind == "compile":
            torch._dynamo.reset()  # else the second batch size is compiled for any, which is slower
            module = torch.compile(module, dynamic=False)

        def call() -> Any:
            with torch.inference_mode():
                return module(torch.from_numpy(frames).to("cuda"))[0].cpu()

        call()
        return call

    def tensorrt_call(precision: Precision) -> tuple[Callable[[], Any], Callable[[], None]]:
        backend = check.open(precision)
        backend.warm_up(len(frames))
        return lambda: backend.infer(frames, heatmap=False), backend.close

    for kind in ("eager", "compile"):
        call = check.attempt("speed", f"PyTorch {kind}, batch {batch}", partial(torch_call, kind))
        if call is not None:
            yield f"PyTorch {kind}", call, lambda: None
    for precision in check.precisions:
        opened = check.attempt("speed", f"{check.title} {precision}, batch {batch}", partial(tensorrt_call, precision))
        if opened is not None:
            yield f"{check.title} {precision}", *opened


def speed(check: Check, batch: int) -> Iterator[Row]:
    """Host to host: uint8 frames in, scores back; all in turn, ratios within a round."""
    running = list(contenders(check, batch))
    try:
        rounds: dict[str, list[float]] = {name: [] for name, _, _ in running}
        for number in range(check.rounds):
            for name, call, _ in running[:: 1 if number % 2 else -1]:
                rounds[name].append(host_to_host(call, check.calls))
    finally:
        for _, _, close in running:
            close()
    eager = rounds.get("PyTorch eager")
    for name, values in rounds.items():
        took = median(values)
        said = f"{took:.3f} ms, {1e3 * batch / took:.0f} frames/s"
        if eager:
            said += f", {median(a / b for a, b in zip(eager, values, strict=True)):.2f}x eager"
        yield Row("speed", f"{name}, batch {batch}", said, took)


def bare_speed(check: Check, precision: Precision, batch: int) -> Iterator[Row]:
    """Device time alone, without and with a CUDA graph; and what the host adds to the device's time in the backend."""
    frames = frames_of(check, batch)
    with BareEngine(check.plan(precision), batch) as bare_engine:
        device = median(bare_engine.milliseconds(check.calls) for _ in range(check.rounds))
        yield Row("bare", f"{precision}, batch {batch}", f"{device:.3f} ms, {1e3 * batch / device:.0f} frames/s", device)
        try:
            bare_engine.capture()
            replayed = median(bare_engine.milliseconds(check.calls) for _ in range(check.rounds))
            yield Row("bare", f"{precision}, batch {batch}, CUDA graph", f"{replayed:.3f} ms", replayed)
        except LrdanError as error:
            yield Row("bare", f"{precision}, batch {batch}, CUDA graph", f"not run: {error}", took=False)
    for spin in (False, True):
        with check.open(precision, Cores(spin=spin)) as backend:
            for heatmap in (False, True):
                took, device = backend_milliseconds(backend, frames, heatmap, check)
                added = 1e3 * (took - device) / batch
                what = f"{precision}, batch {batch}, heatmap {'on' if heatmap else 'off'}, {'spinning' if spin else 'asleep'}"
                said = (
                    f"{took:.3f} ms host to host, {device:.3f} ms of it the GPU's, copies included: host {added:.0f} us a frame"
                )
                yield Row("host", what, said, added)


def backend_milliseconds(backend: Backend, frames: Frame, heatmap: bool, check: Check) -> tuple[float, float]:
    """Median milliseconds of a call, host to host and on the GPU's own clock."""
    backend.warm_up(len(frames))
    calls: list[tuple[float, float]] = []
    for _ in range(check.rounds * check.calls):
        begun = time.perf_counter()
        device = backend.infer(frames, heatmap=heatmap).device_ms
        calls.append((1e3 * (time.perf_counter() - begun), device or 0.0))
    took, devices = zip(*calls, strict=True)
    return median(took), median(devices)


def loop_speed(check: Check, precision: Precision, batch: int) -> Iterator[Row]:
    """The inspection loop over frames already decoded, against its backend alone."""
    images = frames_of(check, 64)
    with check.inspector(precision) as inspector:
        shares, rates = [], []
        for _ in range(check.rounds):
            alone = bare(inspector.backend, images, batch, 2)
            rates.append(rate(loop(inspector, Memory(images, seconds=2), batch)))
            shares.append(rates[-1] / alone)
    said = f"{median(rates):.0f} frames/s, {median(shares):.1%} of the backend alone"
    yield Row("loop", f"{precision}, batch {batch}", said, median(shares))


def callers(check: Check, precision: Precision) -> Iterator[Row]:
    """Many threads ask for batches of many sizes at once: every answer is the one that a thread alone gets."""
    random, shape = np.random.default_rng(0), check.bundle.manifest.model.frame_shape
    batches = [random.integers(0, 256, (size, *shape)).astype(np.uint8) for size in (1, 8, 3, 64, 2, 70, 1, 16)]
    with check.open(precision) as backend, ThreadPoolExecutor(8) as pool:
        alone = [backend.infer(batch) for batch in batches]
        together = list(pool.map(backend.infer, 4 * batches))
    worst = max(
        float(np.abs(ours - theirs).max())
        for found, expected in zip(together, 4 * alone, strict=True)
        for ours, theirs in zip(found[:2], expected[:2], strict=True)
        if ours is not None and theirs is not None
    )
    yield Row(
        "threads", f"{precision}, 8 threads, {len(together)} batches", f"differ by {worst:.1e} at most from one alone", worst
    )


def closing(check: Check, precision: Precision) -> Iterator[Row]:
    """What a GPU's memory loses over ten backends opened, used and closed."""
    import torch
    from pycuda import driver

    def free() -> int:
        getattr(torch._C, "_cuda_clearCublasWorkspaces", int)()  # one for every stream that ever multiplied matrices
        torch.cuda.empty_cache()  # what PyTorch keeps for later is no loss
        with GpuContext(driver):
            return int(driver.mem_get_info()[0])

    frames, left = frames_of(check, 4), []
    for _ in range(11):
        with check.open(precision) as backend:
            backend.infer(frames)
        left.append(free())
    lost = (left[0] - left[-1]) / 2**20
    yield Row("closing", f"{precision}, ten times after the first", f"{lost:.1f} MiB of GPU memory lost", lost)


def run(check: Check) -> None:
    """The whole check, part by part."""
    check.add("machine", "TensorRT", environment)
    for precision in () if check.stand_in else PRECISIONS:
        check.add("build", precision, partial(build, check, precision))
    for precision in check.precisions:
        check.add("parity", precision, partial(parity, check, precision))
        check.add("threads", precision, partial(callers, check, precision))
        check.add("closing", precision, partial(closing, check, precision))
    for batch in BATCHES:
        check.add("speed", f"batch {batch}", partial(speed, check, batch))
    for precision in check.precisions:
        for batch in (1, 16):
            check.add("bare", f"{precision}, batch {batch}", partial(bare_speed, check, precision, batch))
    for batch in (1, 8):
        check.add("loop", f"fp16, batch {batch}", partial(loop_speed, check, "fp16", batch))


ABOUT_STAND_IN = (
    "PyTorch stands in for TensorRT: it computes the deploy graph on the stream, and between the addresses, that the TensorRT "
    "backend gives it. PyCUDA, the driver, page-locked memory, CUDA graphs and threads are the real ones, so parity, threads, "
    "closing, host and loop are the backend's own figures; what the graph takes is PyTorch's and says nothing about TensorRT."
)


def as_markdown(check: Check, command: str) -> str:
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    model = check.bundle.manifest.model
    lines = [
        "# GPU check",
        "",
        f"`{command}`; {said}.",
        f"Recipe {model.recipe}, {model.height}×{model.width}×{model.channels}; medians over {check.rounds} rounds in turn.",
        *(["", ABOUT_STAND_IN] if check.stand_in else []),
        "",
        "| part | what | figure |",
        "|---|---|---|",
        *(f"| {row.part} | {row.what} | {row.figure.replace('|', '/')} |" for row in check.rows),
    ]
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None, results: Path = RESULTS) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--images", type=Path, metavar="DIR")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--epochs", type=int, default=8, help="Of the small bundle.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--calls", type=int, default=CALLS)
    arguments = parser.parse_args(words)
    command = shlex.join(["python", "benchmarks/gpu_check.py", *(sys.argv[1:] if words is None else words)])
    with tempfile.TemporaryDirectory() as folder:
        bundle = Bundle.open(arguments.bundle) if arguments.bundle else None
        bundle = bundle or small_bundle(arguments.images, Path(folder), arguments.epochs)
        check = Check(bundle, arguments.rounds, arguments.calls, arguments.stand_in)
        if check.stand_in:
            from gpu_standin import stand_in

            sys.modules["tensorrt"] = stand_in(bundle)
        run(check)
        results.mkdir(exist_ok=True)
        record = {"command": command, "versions": versions(), "rows": check.rows}
        name = "gpu-check-stand-in" if check.stand_in else "gpu-check"
        (results / f"{name}.json").write_bytes(to_json(record))
        page = as_markdown(check, command)
        (results / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)
    return check.rows


if __name__ == "__main__":
    main()
