"""A capture process lives exactly as long as the process that it serves."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import scripted_captures

from lrdan_edge.runtime.sources.capture_process import CaptureJob
from lrdan_edge.runtime.sources.live import LiveSource

PROGRAM = """
import itertools, os, signal, sys, threading
sys.path.insert(0, {support!r})
from lrdan_edge.runtime.sources.capture_process import CaptureJob
from lrdan_edge.runtime.sources.live import LiveSource
opened = []
def work():
    opened.append(LiveSource("camera", CaptureJob("scripted_captures", "opener", ({log!r}, *{scripts!r}), 60)))
    opened.append(iter(opened[0]))
    opened.append([next(opened[1]) for _ in range(3)])
if {thread}:
    thread = threading.Thread(target=work); thread.start(); thread.join()
else:
    work()
os.kill(opened[0].pid, signal.SIGSTOP)
print(opened[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def ended(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("scripts", [("image*500, pause 20",), ("image, die", "image*500, pause 20"), ("image*3, hang",)])
def test_a_stopped_capture_process_ends_with_a_killed_parent(tmp_path: Path, scripts: tuple[str, ...], *, thread: bool) -> None:
    """From one connection or after it was restarted, in a read that hangs, and started by a thread that has ended."""
    support = str(Path(scripted_captures.__file__).parent)
    program = PROGRAM.format(support=support, log=str(tmp_path), scripts=scripts, thread=thread)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, end = int(done.stdout), time.monotonic() + 2
    while not ended(pid) and time.monotonic() < end:
        time.sleep(0.02)
    gone = ended(pid)
    if not gone:
        os.kill(pid, signal.SIGKILL)
    assert gone, "a stopped process has outlived its parent"


def test_a_capture_process_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    sources: list[LiveSource] = []
    job = CaptureJob("scripted_captures", "opener", (str(tmp_path), "image*500, pause 20"), 10)
    thread = threading.Thread(target=lambda: sources.append(LiveSource("camera", job)))
    thread.start()
    thread.join()
    with sources[0] as source:
        time.sleep(0.3)
        frames = list(itertools.islice(source, 50))
        assert [frame.fault for frame in frames] == [None] * 50
        assert scripted_captures.count(tmp_path, "opened") == 1


def test_a_parent_that_ends_leaves_time_to_release_the_camera(tmp_path: Path) -> None:
    support = str(Path(scripted_captures.__file__).parent)
    scripts = ("image*500, pause 20",)
    program = PROGRAM.format(support=support, log=str(tmp_path), scripts=scripts, thread=False).split("os.kill(opened")[0]
    subprocess.run([sys.executable, "-c", program + "print(opened[0].close())"], check=True, capture_output=True)
    end = time.monotonic() + 2
    while not scripted_captures.count(tmp_path, "released") and time.monotonic() < end:
        time.sleep(0.02)
    assert scripted_captures.count(tmp_path, "released") == 1
