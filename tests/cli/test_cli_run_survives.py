"""`lrdan-edge run` as a process: what hangs, crashes or is killed leaves faults and an exit code, and takes no time to end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from parts import Line, good_image, write

HANGS = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which the tests may run, ignores it
from lrdan_edge.backends.null import NullBackend
plain, calls = NullBackend._infer, iter(range(10**9))
def infer(self, frames, heatmap):
    if next(calls) >= 5:
        print("stuck", flush=True)
        HANG
    return plain(self, frames, heatmap)
NullBackend._infer = infer
from lrdan_edge.cli.main import main
main()
"""


@pytest.fixture
def belt(tmp_path: Path) -> Path:
    for index in range(4):
        write(tmp_path / "belt" / f"{index}.png", good_image(np.random.default_rng(index)))
    return tmp_path / "belt"


def begin(line: Line, belt: Path, how: str, *words: str) -> "subprocess.Popen[str]":
    options = ["run", str(belt), "--loop", "-b", str(line.bundle), "--backend", "null", "--save", "none", *words]
    return subprocess.Popen(
        [sys.executable, "-c", HANGS.replace("HANG", how), *options, "--output", str(belt.parent / "out"), "--append"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_stuck(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    while "stuck" not in process.stdout.readline():
        assert process.poll() is None


def records(belt: Path) -> list[dict[str, object]]:
    return [json.loads(text) for text in (belt.parent / "out" / "verdicts.jsonl").read_text().splitlines()]


def test_a_backend_that_hangs_ends_the_process_after_the_deadline(line: Line, belt: Path) -> None:
    process = begin(line, belt, "time.sleep(1000)", "--deadline", "1")
    wait_until_stuck(process)
    started = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.monotonic() - started < 15
    assert "Error: the backend has not answered for 1 s" in errors
    found = records(belt)
    assert len(found) > 4
    assert {one["outcome"] for one in found} == {"fault"}
    assert "has not answered" in str(found[4]["fault"])
    told = json.loads((belt.parent / "out" / "run.json").read_text())
    assert told["ended"]
    assert {one["run"] for one in found} == {told["run"]}
    assert (told["backend"], told["engine"]) == ("null", None)
    assert len(told["bundle"]["sha256"]) == len(told["graph"]["sha256"]) == 16


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_process_whose_backend_hangs(line: Line, belt: Path, number: signal.Signals) -> None:
    process = begin(line, belt, "time.sleep(1000)")
    wait_until_stuck(process)
    started = time.monotonic()
    process.send_signal(number)
    process.send_signal(number)  # as `timeout` does
    process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 1, "frames were lost"
    assert {one["outcome"] for one in records(belt)} == {"fault"}


def test_runs_after_a_kill_go_on_counting_and_say_so(line: Line, belt: Path) -> None:
    process = begin(line, belt, "import os; time.sleep(1); os.kill(os.getpid(), 9)")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    before = records(belt)
    other = begin(line, belt, "time.sleep(1000)", "--deadline", "0.5")
    other.communicate(timeout=60)
    found = records(belt)
    assert found[: len(before)] == before
    killed = found[len(before)]
    assert killed["outcome"] == "fault"
    assert f"the run {before[0]['run']} " in str(killed["fault"])
    assert set(before[0]) == set(killed)
    numbers = [one["index"] for one in found]
    assert numbers == sorted(set(numbers))  # type: ignore[type-var]
    runs = [json.loads(text) for text in (belt.parent / "out" / "runs.jsonl").read_text().splitlines()]
    assert [one["run"] for one in runs] == list(dict.fromkeys(one["run"] for one in found))


def test_a_second_run_into_the_same_folder_is_refused(line: Line, belt: Path) -> None:
    first = begin(line, belt, "time.sleep(1000)")
    wait_until_stuck(first)
    second = begin(line, belt, "pass")
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "another run writes into" in errors
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()


KEEPS_THE_GIL = "import ctypes; ctypes.PyDLL(None).sleep(1000)"


def test_a_backend_that_keeps_the_interpreters_lock_ends_the_process_after_the_deadline(line: Line, belt: Path) -> None:
    process = begin(line, belt, KEEPS_THE_GIL, "--deadline", "1")
    wait_until_stuck(process)
    started = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - started < 15
    assert process.returncode == -signal.SIGKILL
    assert "Error: the interpreter has been blocked for 3 s" in errors
    assert "in infer" in errors, "where it hangs"
    told = json.loads((belt.parent / "out" / "run.json").read_text())
    assert told["ended"] is None
    assert "keeps the GIL" in told["problems"][0]
    before = len(records(belt))
    begin(line, belt, "os._exit(0)").communicate(timeout=60)
    found = records(belt)[before]
    assert "was killed" in str(found["fault"])
    assert "keeps the GIL" in str(found["fault"])


def test_a_signal_ends_a_process_whose_backend_keeps_the_interpreters_lock(line: Line, belt: Path) -> None:
    process = begin(line, belt, KEEPS_THE_GIL)
    wait_until_stuck(process)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert 5 < time.monotonic() - started < 10
    assert process.returncode == -signal.SIGKILL
    assert "did not end in time after a signal" in errors
    assert "did not end in time" in json.loads((belt.parent / "out" / "run.json").read_text())["problems"][0]


def test_a_suspended_run_is_not_killed(line: Line, belt: Path) -> None:
    process = begin(line, belt, "time.sleep(0.01)", "--deadline", "0.5")
    wait_until_stuck(process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    process.send_signal(signal.SIGCONT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert "blocked for" not in errors
