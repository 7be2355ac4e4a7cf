"""A line's weeks in minutes: cameras that freeze, break off and change size, a full disk, a controller that goes away.

    python benchmarks/soak.py BUNDLE --minutes 12

One `lrdan-edge run` reads a real RTSP server (GStreamer's), an MJPEG camera over HTTP and a folder that images are uploaded
into. It writes to a disk of 3 MiB and tells a web server every verdict. Every fault that is caused must stand in the verdicts,
every frame must have a line or be counted in one, numbers must not repeat, exit codes must be right, and memory must not grow.
Afterwards a run is killed, and the next one must say so. Writes ``benchmarks/results/soak.json`` and ``.md``. Needs root (for
the disk), and on Debian python3-gi, gir1.2-gst-rtsp-server-1.0 and GStreamer's plugins base, good and ugly.
"""

import argparse
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from soak_parts import Camera, Controller, RtspServer, Uploads

RESULTS = Path(__file__).parent / "results"
FULL_S = 40.0  # longer than the frames that wait for the disk last
DISK = "3m"
MOST_GROWTH_MIB = 8.0


@contextmanager
def full(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    yield
    filler.unlink()


class Run:
    """`lrdan-edge run` as a process, and its resident memory over time."""

    def __init__(self, words: list[str], out: Path, log: Path) -> None:
        self.out, self.before = out, run_in(out).get("run")
        self.memory: list[tuple[float, float]] = []
        self.began = time.monotonic()
        with log.open("ab") as file:
            self.process = subprocess.Popen([sys.executable, "-m", "lrdan_edge", "run", *words], stdout=file, stderr=file)

    def sample(self) -> None:
        with suppress(OSError, AttributeError):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            kib = re.search(r"VmRSS:\s+(\d+)", status)
            self.memory.append((time.monotonic() - self.began, int(kib[1]) / 1024 if kib else 0.0))

    def wait_for_lines(self) -> None:
        """Wait until this run has written verdicts of all sources."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError, ValueError, KeyError):
                name = run_in(self.out)["run"]
                if name != self.before and len({one["source"] for one in lines(self.out) if one["run"] == name}) >= 3:
                    return
            time.sleep(0.5)

    def end(self, number: signal.Signals) -> tuple[int, float]:
        started = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(60), time.monotonic() - started


def run_in(out: Path) -> dict[str, Any]:
    """What ``run.json`` says of the last run; nothing before the first."""
    path = out / "run.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (out / "verdicts.jsonl").read_text().splitlines()]


def works(out: Path, source: str, since: float) -> bool:
    """Whether the last verdicts have one of this source, and after this time, that is not a fault."""
    with (out / "verdicts.jsonl").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 16)))
        last = [json.loads(text) for text in file.read().splitlines()[1:]]
    return any(
        source in one["source"] and one["outcome"] != "fault" and datetime.fromisoformat(one["time"]).timestamp() > since
        for one in last
    )


def cause(
    run: Run, seconds: float, kinds: dict[str, tuple[Callable[[], Any], float, str, str]], disk: Path
) -> list[dict[str, Any]]:
    """Cause faults, one after the other, again and again, and a full disk twice; returns when each began and ended."""
    events, begin = [], time.monotonic()
    due = [begin + seconds / 3, begin + 2 * seconds / 3]

    def during(kind: str, causes: Any, length: float, source: str, reason: str) -> None:
        event: dict[str, Any] = {"kind": kind, "source": source, "reason": reason, "from": time.time()}
        with causes:
            pause(length)
        events.append({**event, "to": time.time()})
        pause(5 if source else 15)
        deadline = time.monotonic() + 60
        while source and time.monotonic() < deadline and not works(disk / "out", source, events[-1]["to"]):
            pause(1)

    def pause(length: float) -> None:
        end = time.monotonic() + length
        while time.monotonic() < end and run.process.poll() is None:
            run.sample()
            time.sleep(1)

    for kind in itertools.cycle(kinds):
        if time.monotonic() - begin > seconds or run.process.poll() is not None:
            return events
        if due and time.monotonic() > due[0]:
            due.pop(0)
            during("disk full", full(disk), FULL_S, "", "lost")
        make, length, source, reason = kinds[kind]
        during(kind, make(), length, source, reason)
    return events


def recorded(event: dict[str, Any], found: list[dict[str, Any]]) -> bool:
    """Whether a fault of this source, with this reason, stands in the verdicts at this time."""
    for one in found:
        at = datetime.fromisoformat(one["time"]).timestamp()
        then = event["from"] - 1 <= at <= event["to"] + 10
        if then and event["source"] in one["source"] and re.search(event["reason"], one.get("fault", "")):
            return True
    return False


def slope(memory: list[tuple[float, float]]) -> tuple[float, float]:
    """MiB an hour over the last two thirds, and MiB at their end."""
    part = np.array(memory[len(memory) // 3 :])
    return float(np.polyfit(part[:, 0], part[:, 1], 1)[0] * 3600), float(part[-1, 1])


def soak(bundle: Path, seconds: float, work: Path, disk: Path) -> dict[str, Any]:
    camera, rtsp, controller, out = Camera(), RtspServer(), Controller(), disk / "out"
    camera.jpeg()
    uploads = Uploads(work / "uploads", camera)
    words = [
        f"rtsp://127.0.0.1:{rtsp.port}/main",
        f"http://127.0.0.1:{camera.web.port}/",
        f"watch:{uploads.folder}?existing=skip",
    ]
    words += ["-b", str(bundle), "--backend", "onnxruntime", "--threads", "1", "--output", str(out), "--append"]
    words += ["--save", "none", "--wait", "--durable", "all", "--no-frame-after", "3", "--frozen-after", "5"]
    words += ["--notify", f"http://127.0.0.1:{controller.web.port}/", "--notify-on", "all", "--sink-timeout", "120"]
    kinds = {
        "camera frozen": (lambda: camera.doing("frozen"), 10.0, "http", "frozen image"),
        "camera cut": (camera.gone, 6.0, "http", "connection|no frame|refused|listens|answer"),
        "camera resized": (lambda: camera.doing("resized"), 6.0, "http", "image size changed"),
        "camera silent": (lambda: camera.doing("silent"), 8.0, "http", "no frame for"),
        "RTSP server killed": (rtsp.gone, 6.0, "rtsp", "connection|no frame|refused|listens|answer"),
        "upload damaged": (uploads.damaged, 8.0, "watch", "not a complete image"),
        "controller gone": (controller.gone, 6.0, "", ""),
    }
    uploads.thread.start()
    run = Run(words, out, work / "log")
    run.wait_for_lines()
    time.sleep(15)
    events = cause(run, seconds, kinds, disk)
    asked = time.time()
    code, exit_s = run.end(signal.SIGTERM)
    found, told = lines(out), json.loads((out / "run.json").read_text())
    end_s = datetime.fromisoformat(told["ended"]).timestamp() - asked
    result = judge(events, found, told, run) | {
        "exit code": code,
        "end_s": round(end_s, 2),
        "exit_s": round(exit_s, 2),
        "told": controller.told,
    }
    result |= {"uploads": uploads.count, "kills": killed_runs(words, out, work)}
    numbers = [one["index"] for one in lines(out)]
    result["numbers"] = {"lines": len(numbers), "different": len(set(numbers))}
    uploads.over.set()
    camera.web.stop()
    controller.web.stop()
    rtsp.stop()
    return result


def judge(events: list[dict[str, Any]], found: list[dict[str, Any]], told: dict[str, Any], run: Run) -> dict[str, Any]:
    """What the run recorded of the events, and of its frames."""
    back = Counter(one.partition(" works again")[0].split()[1] for one in told["problems"] if "works again" in one)
    kinds: dict[str, list[int]] = {}
    for event in events:
        counts = kinds.setdefault(event["kind"], [0, 0])
        counts[0] += 1
        sink = {"disk full": "verdicts", "controller gone": "notify"}.get(event["kind"])
        counts[1] = min(counts[0], back[sink]) if sink else counts[1] + recorded(event, found)
    per_hour, last = slope(run.memory)
    lost = sum(one.get("lost", 0) for one in found)
    return {
        "minutes": round(told["seconds"] / 60, 1),
        "events": kinds,
        "frames": told["frames"],
        "lines": sum("lost" not in one for one in found),
        "lost, counted in lines": lost,
        "slow or failed": told["drops"]["slow sink"] + told["drops"]["failed sink"],
        "memory": {
            "MiB": round(last, 1),
            "MiB an hour": round(per_hour, 2),
            "growth": round(per_hour * told["seconds"] * 2 / 3 / 3600, 2),
        },
        "outcomes": told["outcomes"],
        "sinks back": back,
    }


def killed_runs(words: list[str], out: Path, work: Path) -> dict[str, Any]:
    """Kill a run, and look what the next one says."""
    run = Run(words, out, work / "log")
    run.wait_for_lines()
    time.sleep(3)
    code, _ = run.end(signal.SIGKILL)
    again = Run(words, out, work / "log")
    again.wait_for_lines()
    ended, seconds = again.end(signal.SIGTERM)
    said = sum("was killed" in one.get("fault", "") for one in lines(out))
    return {"killed": code, "next": ended, "next said so": said, "next ended after s": round(seconds, 2)}


def failures(result: dict[str, Any]) -> list[str]:
    """What is not as it must be."""
    wrong = [f"{kind}: {seen} of {count} recorded" for kind, (count, seen) in result["events"].items() if seen != count]
    if result["events"].get("disk full", [0])[0] != 2:
        wrong.append("the disk was not full twice")
    if result["lines"] + result["lost, counted in lines"] != result["frames"]:
        wrong.append("frames are missing in the verdicts")
    if result["told"] < result["frames"]:
        wrong.append("the controller was told too little")
    if result["exit code"] != 1 or result["end_s"] > 10:  # 1: frames found no room, and uploads were damaged
        wrong.append("the end of the run")
    if result["kills"] | {"next ended after s": 0} != {"killed": -9, "next": 0, "next said so": 1, "next ended after s": 0}:
        wrong.append("the run after the one that was killed")
    if result["numbers"]["lines"] != result["numbers"]["different"]:
        wrong.append("numbers repeat")
    if result["memory"]["growth"] > MOST_GROWTH_MIB:
        wrong.append("memory grows")
    return wrong


def as_markdown(result: dict[str, Any], command: str) -> str:
    memory, kills = result["memory"], result["kills"]
    text = ["# A line's weeks in minutes", "", f"`{command}`: {result['minutes']} minutes, {result['frames']} frames.", ""]
    text += ["| caused | times | recorded |", "| --- | --- | --- |"]
    text += [f"| {kind} | {count} | {seen} |" for kind, (count, seen) in result["events"].items()]
    rows = {
        "frames with a line of their own": result["lines"],
        "frames counted in the line of a gap (full disk)": result["lost, counted in lines"],
        "verdicts that the controller was told, gaps counted": result["told"],
        "numbers, and how many differ": f"{result['numbers']['lines']}, {result['numbers']['different']}",
        "exit code; 1, because frames were lost": result["exit code"],
        "seconds from SIGTERM to the end of the run, and of the process": f"{result['end_s']}, {result['exit_s']}",
        "after SIGKILL: exit code, that of the next run, its lines that say so": ", ".join(map(str, list(kills.values())[:3])),
        "memory at the end (MiB), slope (MiB an hour), growth in the last two thirds (MiB)": ", ".join(
            map(str, memory.values())
        ),
    }
    text += ["", "| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items()), ""]
    text += [
        "A full disk and a controller that is gone are recorded when `run.json` says that the sink fails and works again; the frames"
    ]
    text += [
        "that this cost are counted above. Everything runs at nice 10, so the seconds are those of a machine that has other work.",
        "",
    ]
    return "\n".join([*text, f"As it must be: {'yes' if not result['failures'] else '; '.join(result['failures'])}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", disk]).returncode:
            sys.exit("a small disk cannot be mounted: run this as root")
        try:
            result = soak(arguments.bundle, 60 * arguments.minutes, Path(folder), disk)
        finally:
            print((Path(folder) / "log").read_text(errors="replace")[-3000:])
            subprocess.run(["umount", "--lazy", disk], check=False)
    result["failures"] = failures(result)
    (arguments.results / "soak.json").write_text(json.dumps(result, indent=1) + "\n")
    text = as_markdown(result, f"python benchmarks/soak.py BUNDLE --minutes {arguments.minutes:g}")
    (arguments.results / "soak.md").write_text(text)
    print(text)
    sys.exit(bool(result["failures"]))


if __name__ == "__main__":
    os.nice(10)
    main()
