"""What the inspection loop costs: against the bare backend, over many sources, over 1080p H.264, and in memory.

    python benchmarks/loop.py BUNDLE

BUNDLE is a calibrated one, of 256x256 pixels for the figures that are committed. Compared runs take turns, so that what the
machine does besides falls on all alike; every figure is the median over rounds, and every share is taken within a round.
Writes ``benchmarks/results/loop.json`` and ``loop.md``. The H.264 part needs an ffmpeg with libx264: on the PATH, or
``pip install imageio-ffmpeg``.
"""

import argparse
import gc
import importlib.util
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

from lrdan_edge import Bundle, InspectionLoop, Inspector, open_source
from lrdan_edge.backends.base import Backend, Cores
from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.stage import versions
from lrdan_edge.data.images import Frame, fit_frame
from lrdan_edge.engines.golden import golden_frames
from lrdan_edge.runtime.loop import Progress
from lrdan_edge.runtime.sinks.base import Sink
from lrdan_edge.runtime.sinks.files import JsonLinesSink
from lrdan_edge.runtime.sources.base import CapturedFrame, Source

RESULTS = Path(__file__).parent / "results"
BELT = "belt.avi"
CORES = len(os.sched_getaffinity(0))


class Memory(Source):
    """Frames already decoded, over and over, until so many are delivered or the time is over."""

    live = False
    fps = None

    def __init__(self, images: Frame, *, count: int | None = None, seconds: float = float("inf")) -> None:
        self.uri, self.frames, self.images, self.seconds = "memory", count, images, seconds
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[CapturedFrame]:
        end = time.monotonic() + self.seconds
        for index in range(self.frames) if self.frames else itertools.count():
            if self.closed.is_set() or time.monotonic() > end:
                return
            yield CapturedFrame.of(self.images[index % len(self.images)], index, self.uri, f"frame {index}")

    def close(self) -> None:
        self.closed.set()


def bare(backend: Backend, images: Frame, batch: int, seconds: float) -> float:
    """Frames per second of the backend alone."""
    parts = [np.ascontiguousarray(images[np.arange(start, start + batch) % len(images)]) for start in range(len(images))]
    begun, calls = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds or calls < 3:
        backend.infer(parts[calls % len(parts)], heatmap=False)
        calls += 1
    return calls * batch / (time.perf_counter() - begun)


def loop(inspector: Inspector, sources: Source | list[Source], batch: int, sinks: list[Sink] | None = None) -> Progress:
    return InspectionLoop(inspector, sources, sinks or [], batch=batch, policy="every", heatmaps=False).run()


def rate(progress: Progress) -> float:
    return progress.frames / progress.seconds


def verdicts(folder: Path) -> list[Sink]:
    return [JsonLinesSink(folder / "verdicts", overwrite=True)]


def turns(rounds: int, contenders: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each contender's figure in every round, the order turned about from round to round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: 1 if number % 2 else -1]:
            found[name].append(contenders[name]())
    return found


def share(part: list[float], whole: list[float]) -> float:
    return median(one / other for one, other in zip(part, whole, strict=True))


def against_bare(inspector: Inspector, images: Frame, folder: Path, rounds: int, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for batch in (1, 4):
        found = turns(
            rounds,
            {
                "bare": lambda batch=batch: bare(inspector.backend, images, batch, seconds),  # type: ignore[misc]
                "loop": lambda batch=batch: rate(loop(inspector, Memory(images, seconds=seconds), batch)),  # type: ignore[misc]
                "loop, writing verdicts": lambda batch=batch: rate(  # type: ignore[misc]
                    loop(inspector, Memory(images, seconds=seconds), batch, verdicts(folder))
                ),
            },
        )
        for name, rates in found.items():
            rows.append({"batch": batch, "run": name, "frames_per_s": median(rates), "of_bare": share(rates, found["bare"])})
    return rows


def own_cost(bundle: Bundle, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Microseconds per frame of the loop itself, with the null backend."""
    rows = []
    with Inspector.open(bundle, backend="null") as inspector:
        images = np.zeros((8, *inspector.backend.spec.frame_shape), np.uint8)
        for batch in (1, 4, 16):
            found = turns(
                rounds,
                {
                    "loop": lambda b=batch: 1e6 / rate(loop(inspector, Memory(images, count=5000), b)),  # type: ignore[misc]
                    "loop, writing verdicts": lambda b=batch: (  # type: ignore[misc]
                        1e6 / rate(loop(inspector, Memory(images, count=5000), b, verdicts(folder)))
                    ),
                },
            )
            rows += [{"batch": batch, "run": name, "us_per_frame": median(values)} for name, values in found.items()]
    return rows


def many_sources(inspector: Inspector, folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Eight video files at once against one, all played over and over for the same time."""
    video = folder / BELT
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 25, (640, 480))
    rng = np.random.default_rng(0)
    for _ in range(50):
        writer.write(cv2.resize(rng.integers(0, 256, (60, 80, 3), np.uint8), (640, 480)))
    writer.release()
    fairness: list[float] = []

    def play(count: int) -> float:
        running = InspectionLoop(inspector, [open_source(video, loop=True) for _ in range(count)], batch=4, heatmaps=False)
        timer = threading.Timer(seconds, running.stop)
        timer.start()
        progress = running.run()
        if count > 1:
            counts = [source.frames for source in progress.sources]
            fairness.append(max(counts) / max(1, min(counts)))
        return rate(progress)

    found = turns(rounds, {"1 source": lambda: play(1), "8 sources": lambda: play(8)})
    figures: dict[str, Any] = {f"{name}, frames/s": median(rates) for name, rates in found.items()}
    return figures | {"8 of 1": share(found["8 sources"], found["1 source"]), "max/min frames": max(fairness)}


def beside(bundle: Bundle, video: Path, rounds: int) -> dict[str, Any]:
    """How fast Python itself runs beside decoding and inference, of its speed alone: what holds the GIL leaves it little."""
    images = golden_frames(bundle)
    with (
        OnnxRuntimeBackend(bundle.graph("int8").read_bytes(), "int8", cores=Cores(1)) as backend,
        ThreadPoolExecutor(1) as pool,
    ):
        work = {
            "alone": lambda: time.sleep(1),
            "decoding": lambda: decode(video, None),
            "inference": lambda: bare(backend, images, 4, 1.0),
        }

        def counted(run: Callable[[], object]) -> float:
            done, counts, begun = pool.submit(run), 0, time.perf_counter()
            while not done.done():
                counts += 1
            done.result()
            return counts / (time.perf_counter() - begun)

        found = turns(rounds, {name: lambda run=run: counted(run) for name, run in work.items()})  # type: ignore[misc]
    return {f"beside {name}": share(found[name], found["alone"]) for name in ("decoding", "inference")}


def ffmpeg() -> str | None:
    """An ffmpeg that writes H.264, if there is one."""
    if found := shutil.which("ffmpeg"):
        return found
    if importlib.util.find_spec("imageio_ffmpeg"):
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    return None


def encode(program: str, path: Path, frames: int) -> None:
    """A belt of noise with a texture, moving: 1080p H.264 at 25 frames/s."""
    words = [program, "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "1920x1080", "-r", "25", "-i", "-"]
    words += ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", str(path)]
    rng = np.random.default_rng(0)
    belt = cv2.resize(rng.integers(60, 200, (270, 1200, 3), np.uint8), (4800, 1080), interpolation=cv2.INTER_CUBIC)
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for index in range(frames):
            process.stdin.write(np.ascontiguousarray(belt[:, 8 * index % 2880 :][:, :1920]).tobytes())
        process.stdin.close()
    if process.returncode:
        raise SystemExit(f"{program} cannot write H.264: install one with libx264")


def over_h264(bundle: Bundle, folder: Path, rounds: int, frames: int) -> list[dict[str, Any]]:
    """Decoding alone, inference alone and the loop; inference on all cores, and on all but one."""
    program = ffmpeg()
    if program is None:
        print("no ffmpeg here: the H.264 part is left out; pip install imageio-ffmpeg", file=sys.stderr)
        return []
    video = folder / "belt.mp4"
    encode(program, video, frames)
    rows = []
    images = golden_frames(bundle)
    shape = images.shape[1:]
    for threads in sorted({CORES, max(1, CORES - 1)}, reverse=True):
        backend = OnnxRuntimeBackend(bundle.graph("int8").read_bytes(), "int8", cores=Cores(threads))
        with Inspector.open(bundle, backend="onnxruntime", precision="int8") as opened:
            inspector = Inspector(bundle, backend, opened.thresholder, opened.choice)
        cpu_ms: dict[str, list[float]] = {}

        def timed(name: str, run: Callable[[], float], cpu_ms: dict[str, list[float]] = cpu_ms) -> Callable[[], float]:
            """`run`, its processor time per frame noted: start-up and all."""

            def measured() -> float:
                spent, begun = time.process_time(), time.perf_counter()
                found = run()
                cpu_ms.setdefault(name, []).append(
                    1000 * (time.process_time() - spent) / (found * (time.perf_counter() - begun))
                )
                return found

            return measured

        alone = {
            "decode": lambda: decode(video, None),
            "decode and fit": lambda: decode(video, shape),
            "infer": lambda b=backend: bare(b, images, 4, 2.0),  # type: ignore[misc]
            "loop": lambda i=inspector: rate(loop(i, open_source(video), 4)),  # type: ignore[misc]
        }
        found = turns(rounds, {name: timed(name, run) for name, run in alone.items()})
        figures: dict[str, Any] = {name: median(values) for name, values in found.items()}
        figures["cores"] = 1000 * CORES / (median(cpu_ms["decode and fit"]) + median(cpu_ms["infer"]))
        bound = min(("decode", "infer", "cores"), key=lambda name: figures[name])
        rows.append(
            {"inference threads": threads, **figures}
            | {"bound by": bound, "loop of that": median(_shares(found, bound, figures))}
            | {f"{name}, CPU ms": median(values) for name, values in cpu_ms.items()}
        )
        backend.close()
    return rows


def _shares(found: dict[str, list[float]], bound: str, figures: dict[str, Any]) -> list[float]:
    """The loop's rate against what bounds it, in each round; the cores' bound is one for all."""
    return [
        rate / limit
        for rate, limit in zip(found["loop"], found.get(bound) or [figures[bound]] * len(found["loop"]), strict=True)
    ]


def decode(video: Path, shape: tuple[int, ...] | None) -> float:
    """Frames per second of decoding, and of fitting to `shape` too where it is given."""
    begun = time.perf_counter()
    count = 0
    with open_source(video) as source:
        for frame in source:
            if shape and frame.image is not None:
                fit_frame(frame.image, (shape[0], shape[1], shape[2]))
            count += frame.image is not None
    return count / (time.perf_counter() - begun)


def memory(bundle: Bundle, folder: Path, frames: int, backend: str) -> dict[str, Any]:
    """Resident memory from the first tenth of the frames to the last, verdicts written."""
    samples: list[tuple[int, float]] = []
    with Inspector.open(bundle, backend=backend) as inspector:
        images = np.zeros((8, *inspector.backend.spec.frame_shape), np.uint8)

        def sample(progress: Progress) -> None:
            if progress.frames >= (len(samples) + 1) * frames / 10:
                gc.collect()
                samples.append((progress.frames, resident_mib()))

        InspectionLoop(inspector, Memory(images, count=frames), verdicts(folder), heatmaps=False).run(sample)
    figures = {"frames": frames, "backend": backend, "growth_mib": samples[-1][1] - samples[0][1]}
    return figures | {"resident_mib": samples[-1][1], "samples": samples}


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def as_markdown(report: dict[str, Any]) -> str:
    def table(rows: list[dict[str, Any]]) -> list[str]:
        if not rows:
            return ["not measured here"]
        shown = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows]
        lines = [list(rows[0]), ["---"] * len(rows[0]), *shown]
        return [f"| {' | '.join(line)} |" for line in lines]

    growth = report["memory"]
    return "\n".join(
        [
            "# The inspection loop",
            "",
            f"`{report['command']}` on {report['machine']}, {report['cores']} cores; {report['backend']}, "
            f"{report['frame']}; medians of {report['rounds']} rounds, taken in turns.",
            "",
            "## Over frames already decoded, against the backend alone",
            "",
            *table(report["against_bare"]),
            "",
            "## The loop itself (null backend), microseconds per frame",
            "",
            *table(report["own_cost"]),
            "",
            "## Eight video files at once (640x480 MJPEG)",
            "",
            *table([report["many_sources"]]),
            "",
            "## Over 1080p H.264, frames per second",
            "",
            *table(report["h264"]),
            "",
            "`decode` and `infer` are those stages alone. `cores` is what this machine's cores could at most do with the processor",
            "time of both (and of fitting frames to the graph), were they all free. The loop is bound by the least of the three.",
            "",
            "## Python's own speed beside them, of its speed alone",
            "",
            *table([report["python"]]),
            "",
            "Near 1: decoding (of the MJPEG file) and inference hold no GIL, so they overlap with each other and with the rest.",
            "",
            "## Memory",
            "",
            f"{growth['growth_mib']:.2f} MiB more after {growth['frames']} frames than after a tenth of them "
            f"({growth['resident_mib']:.0f} MiB resident), with the {growth['backend']} backend.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a run that is compared")
    parser.add_argument("--memory-frames", type=int, default=100_000)
    parser.add_argument("--memory-backend", default="null", help="null, or onnxruntime: minutes at 256x256")
    parser.add_argument("--video-frames", type=int, default=250)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for loop.json and loop.md")
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/loop.py", *sys.argv[1:]]),
        "machine": processor().name,
        "cores": CORES,
        "versions": versions(),
        "rounds": arguments.rounds,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report["memory"] = memory(bundle, folder, arguments.memory_frames, arguments.memory_backend)
        report["own_cost"] = own_cost(bundle, folder, arguments.rounds)
        with Inspector.open(bundle, backend="onnxruntime", precision="int8") as inspector:
            report["backend"] = inspector.choice.title
            report["frame"] = "x".join(map(str, inspector.backend.spec.frame_shape))
            images = golden_frames(bundle)
            report["against_bare"] = against_bare(inspector, images, folder, arguments.rounds, arguments.seconds)
            report["many_sources"] = many_sources(inspector, folder, arguments.rounds, arguments.seconds)
        report["python"] = beside(bundle, folder / BELT, arguments.rounds)
        report["h264"] = over_h264(bundle, folder, arguments.rounds, arguments.video_frames)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "loop.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = as_markdown(report)
    (arguments.output / "loop.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
