"""`lrdan-edge run` that tells other programs: JSON Lines on standard output, and controllers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from parts import Line, defective_image, good_image, write

from lrdan_edge.cli.main import cli


@pytest.fixture
def belt(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for index in range(8):
        write(tmp_path / "belt" / f"{index}.png", defective_image(rng)[0] if index in (2, 5) else good_image(rng))
    return tmp_path / "belt"


def begin(line: Line, source: object, *words: str, before: str = "") -> "subprocess.Popen[str]":
    script = f"{before}\nfrom lrdan_edge.cli.main import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", script, "run", str(source), "-b", str(line.bundle), "--fp32", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_standard_output_has_the_verdicts_and_nothing_else(line: Line, belt: Path) -> None:
    loud = "import os\nfrom lrdan_edge.runtime.inspector import Inspector\nplain = Inspector.warm_up\n"
    loud += "Inspector.warm_up = lambda *a: (print('loud'), os.write(1, b'native'), plain(*a))"
    output, errors = (process := begin(line, belt, "--output", "-", before=loud)).communicate(timeout=60)
    assert process.returncode == 0, errors
    found = [json.loads(text) for text in output.splitlines()]
    assert [(one["index"], one["name"]) for one in found] == [(index, f"{index}.png") for index in range(8)]
    assert {one["outcome"] for one in found} == {"good", "reject"}
    assert len({one["run"] for one in found}) == 1
    for words in ("Inspecting ", "8 frames in", "loud", "native"):
        assert words in errors
    assert list(belt.parent.iterdir()) == [belt]


def test_each_line_is_written_at_once_and_a_signal_ends_well(line: Line, belt: Path) -> None:
    process = begin(line, belt, "--loop", "--rate", "20", "--output", "-")
    assert process.stdout is not None
    for index in range(10):
        assert json.loads(process.stdout.readline())["index"] == index
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert all(json.loads(text)["run"] for text in output.splitlines())


def test_a_reader_that_goes_away_ends_the_run_with_a_plain_sentence(line: Line, belt: Path) -> None:
    process = begin(line, belt, "--loop", "--output", "-")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 1
    assert "Error: sink stream stopped: its reader has closed it" in errors
    assert "Traceback" not in errors
    process.stderr.close()


def test_a_full_disk_behind_standard_output_is_tried_again_and_ends_the_run(line: Line, belt: Path) -> None:
    words = ["run", str(belt), "-b", str(line.bundle), "--fp32", "--output", "-", "--sink-timeout", "0.5"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run([sys.executable, "-m", "lrdan_edge", *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("words", [["--append"], ["--overwrite"], ["--save", "all"]])
def test_a_stream_has_no_folder(line: Line, belt: Path, words: list[str]) -> None:
    result = CliRunner().invoke(cli, ["run", str(belt), "-b", str(line.bundle), "--output", "-", *words])
    assert result.exit_code == 2
    assert "writes no folder" in result.output


def test_rejects_are_told_to_a_program_and_recorded(line: Line, belt: Path) -> None:
    told, out = belt.parent / "told", belt.parent / "out"
    eject = belt.parent / "eject"
    eject.write_text('#!/bin/sh\necho "$@" >> "$1"\n')
    eject.chmod(0o755)
    words = ["--notify", f"exec:{eject} {told} {{verdict}} {{index}}", "--output", str(out), "--save", "none"]
    process = begin(line, belt, *words)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    records = [json.loads(text) for text in (out / "verdicts.jsonl").read_text().splitlines()]
    rejects = [f"{told} reject {one['index']}" for one in records if one["outcome"] == "reject"]
    assert told.read_text().splitlines() == rejects
    assert len(rejects) >= 2
    assert "deliver notify exec:eject" in json.loads((out / "run.json").read_text())["latency_ms"]


def test_verdicts_that_nobody_was_told_set_the_exit_code(line: Line, belt: Path) -> None:
    words = ["--notify", "exec:false", "--notify-on", "all", "--output", str(belt.parent / "out"), "--save", "none"]
    process = begin(line, belt, *words)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "sink notify exec:false fails and is tried again: exit code 1" in errors
    assert json.loads((belt.parent / "out" / "run.json").read_text())["drops"]["failed sink"] == 8


def test_a_watched_folder_is_judged_until_the_run_is_stopped(line: Line, belt: Path) -> None:
    process = begin(line, f"watch:{belt}?existing=judge&settle=0.1", "--output", "-")
    assert process.stdout is not None
    assert {json.loads(process.stdout.readline())["name"] for _ in range(8)} == {f"{index}.png" for index in range(8)}
    os.link(belt / "0.png", belt / "new.png")
    assert json.loads(process.stdout.readline())["name"] == "new.png"
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
