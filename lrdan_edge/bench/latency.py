"""The bench stage: latency and throughput of every backend, taking turns in one run.

Every round gives each backend the same time, so that other load on the machine affects all of them equally. Ratios are
computed within a round. Durations are host to host: uint8 frames in, scores back.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np

from lrdan_edge.backends.base import Backend
from lrdan_edge.backends.processor import processor
from lrdan_edge.bench import plots
from lrdan_edge.bundle.benchmark_report import BenchmarkEntry, BenchmarkReport
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.encoding import SCHEMA_VERSION, to_json
from lrdan_edge.bundle.names import BENCHMARK, DECISION, ENGINES, REPORTS, WEIGHTS, graph_name, processor_graph_name
from lrdan_edge.bundle.spec import PRECISIONS
from lrdan_edge.bundle.stage import versions
from lrdan_edge.data.images import Frame
from lrdan_edge.engines.golden import golden_frames
from lrdan_edge.engines.select import candidates, choose
from lrdan_edge.errors import LrdanError
from lrdan_edge.evaluation.figure import matplotlib_found
from lrdan_edge.runtime.inspector import decision_for, open_verified

EAGER = "torch fp32"


@dataclass
class _Candidate:
    """A backend to measure: durations of its calls in seconds, one list per round."""

    title: str
    backend: Backend
    rounds: list[list[float]] = field(default_factory=list)


def bench(
    bundle: Bundle,
    *,
    batches: tuple[int, ...] = (1, 8),
    seconds: float = 20.0,
    rounds: int = 10,
    report: Callable[[str], None] | None = None,
) -> BenchmarkReport:
    """Measure PyTorch eager mode and every engine and graph that runs here, and write ``reports/benchmark.*``.

    Args:
        bundle: A calibrated bundle.
        batches: Batch sizes to measure.
        seconds: Total measuring time, without loading.
        rounds: Number of rounds; each backend gets an equal slice of each.
        report: Called with a line of text when a round ends.

    Raises:
        MissingStageError: The bundle is not calibrated.
    """
    bundle.file(DECISION, Command("calibrate"))
    inputs = {name: bundle.path / name for name in bundle.manifest.files if _runs(name)}  # decisions take no time
    command = str(Command("bench", batch=batches, seconds=seconds, rounds=rounds))
    options = {"batches": batches, "seconds": seconds, "rounds": rounds}
    with bundle.stage("bench", command=command, inputs=inputs, options=options) as stage:
        result = _measure(bundle, command, batches, seconds, rounds, report)
        stage.path(BENCHMARK).write_bytes(to_json(result))
        stage.path(f"{REPORTS}/benchmark.md").write_text(as_markdown(result), encoding="utf-8")
        if matplotlib_found():
            plots.benchmark(stage.path(f"{REPORTS}/benchmark.png"), result)
    return result


def _runs(name: str) -> bool:
    """Whether a file of the bundle is a graph or an engine."""
    engine = name.startswith(f"{ENGINES}/") and not name.endswith((".json", ".sig"))
    return engine or any(name in (graph_name(key), processor_graph_name(key)) for key in PRECISIONS)


def _measure(
    bundle: Bundle, command: str, batches: tuple[int, ...], seconds: float, rounds: int, report: Callable[[str], None] | None
) -> BenchmarkReport:
    measured, not_measured = _open_all(bundle)
    entries: list[BenchmarkEntry] = []
    try:
        slice_s = seconds / (rounds * len(measured) * len(batches))
        for batch in batches:
            frames = _frames(bundle, batch)
            for candidate in measured:
                candidate.rounds.clear()
                _run(candidate, frames, slice_s)  # warm-up, not counted
                candidate.rounds.clear()
            for number in range(rounds):
                for candidate in measured if number % 2 else reversed(measured):
                    _run(candidate, frames, slice_s)
                if report:
                    report(f"batch {batch}: round {number + 1} of {rounds}")
            entries += [_entry(candidate, batch, measured) for candidate in measured]
    finally:
        for candidate in measured:
            candidate.backend.close()
    return BenchmarkReport(
        schema_version=SCHEMA_VERSION,
        machine=processor().name,
        instruction_set=processor().instruction_set,
        cores=len(os.sched_getaffinity(0)),
        versions=versions(),
        command=command,
        rounds=rounds,
        entries=entries,
        not_measured=not_measured,
    )


def _open_all(bundle: Bundle) -> tuple[list[_Candidate], list[str]]:
    choices, not_measured = candidates(bundle)
    if not find_spec("torch"):
        not_measured.append(f"{EAGER}: torch is not installed here")
    elif WEIGHTS in bundle.manifest.files:
        choices = [choose(bundle, "torch"), *choices]
    measured = []
    for choice in choices:
        try:
            measured.append(_Candidate(choice.title, open_verified(bundle, choice, decision_for(bundle, choice))))
        except LrdanError as error:
            not_measured.append(f"{choice.title}: {error}")
    return measured, not_measured


def _frames(bundle: Bundle, batch: int) -> Frame:
    """Golden frames, repeated to fill the batch: uint8 [batch, H, W, C]."""
    frames = golden_frames(bundle)
    return np.ascontiguousarray(frames[np.arange(batch) % len(frames)])


def _run(candidate: _Candidate, frames: Frame, seconds: float) -> None:
    """One slice: at least three calls, then more until the time is over."""
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while len(durations) < 3 or time.perf_counter() < end:
        begun = time.perf_counter()
        candidate.backend.infer(frames, heatmap=False)
        durations.append(time.perf_counter() - begun)
    candidate.rounds.append(durations)


def _entry(candidate: _Candidate, batch: int, measured: list[_Candidate]) -> BenchmarkEntry:
    durations = np.concatenate([np.array(slice_) for slice_ in candidate.rounds])
    p50, p90, p99 = np.percentile(1e3 * durations, [50, 90, 99])
    eager = next((other for other in measured if other.title == EAGER), None)
    speedup = None
    if eager is not None:
        pairs = zip(eager.rounds, candidate.rounds, strict=True)
        speedup = float(np.median([np.median(theirs) / np.median(ours) for theirs, ours in pairs]))
    return BenchmarkEntry(
        title=candidate.title,
        batch=batch,
        latency_ms={"p50": float(p50), "p90": float(p90), "p99": float(p99), "max": float(1e3 * durations.max())},
        frames_per_s=float(batch * len(durations) / durations.sum()),
        speedup=speedup,
        calls=len(durations),
    )


def as_markdown(report: BenchmarkReport) -> str:
    """The benchmark as a page."""
    listed = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        "# Benchmark",
        "",
        f"`{report.command}` on {report.machine} ({report.instruction_set}), {report.cores} cores; {listed}. "
        f"{report.rounds} rounds, all backends in turn in each; durations host to host (uint8 frames in, scores "
        "back); speed-up is the median over rounds of PyTorch eager's duration over the backend's.",
        "",
        "| backend | batch | p50 ms | p90 ms | p99 ms | max ms | frames/s | against PyTorch eager | calls |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in report.entries:
        times = " | ".join(f"{entry.latency_ms[key]:.3f}" for key in ("p50", "p90", "p99", "max"))
        speedup = "n/a" if entry.speedup is None else f"{entry.speedup:.2f}×"
        lines.append(f"| {entry.title} | {entry.batch} | {times} | {entry.frames_per_s:.0f} | {speedup} | {entry.calls} |")
    if report.not_measured:
        lines += ["", "Not measured:", *(f"- {reason}" for reason in report.not_measured)]
    return "\n".join(lines) + "\n"
