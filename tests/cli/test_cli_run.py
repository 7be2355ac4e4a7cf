"""`lrdan-edge run` with several sources, rules in time and place, and signals."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from parts import Line, defective_image, good_image, write

from lrdan_edge.cli.main import cli
from lrdan_edge.runtime.loop import opening
from lrdan_edge.runtime.sources import Limits, Source


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def records(out: Path) -> list[dict[str, object]]:
    return [json.loads(text) for text in (out / "verdicts.jsonl").read_text().splitlines()]


@pytest.fixture
def belt(tmp_path: Path) -> Path:
    """Good parts, a lone defective frame, and a defect that three frames show."""
    rng = np.random.default_rng(1)
    for index in range(16):
        bad = index in (3, 8, 9, 10)
        write(tmp_path / "belt" / f"{index}.png", defective_image(rng)[0] if bad else good_image(rng))
    return tmp_path / "belt"


def test_a_source_that_cannot_be_opened_stops_no_other_and_sets_the_exit_code(line: Line, belt: Path, tmp_path: Path) -> None:
    out, gone = tmp_path / "out", tmp_path / "gone.mp4"
    result = call("run", belt, gone, belt, "-b", line.bundle, "--output", out, "--batch", "4")
    assert result.exit_code == 1
    assert result.output.count("Problem:") == 1
    assert f"{gone}: 0 good, 0 reject, 1 fault, 0 dropped, failed" in result.output
    found = records(out)
    assert len(found) == 33
    assert [one["outcome"] for one in found if one["source"] == str(gone)] == ["fault"]
    told = json.loads((out / "run.json").read_text())
    assert [source["frames"] for source in told["sources"]] == [16, 1, 16]
    assert told["drops"]["fault of source"] == 1
    assert {"wait", "infer", "decide", "total", "deliver verdicts", "deliver frames"} == set(told["latency_ms"])


def test_n_of_m_ignores_a_single_reject_but_records_it(line: Line, belt: Path, tmp_path: Path) -> None:
    words = ("run", belt, "-b", line.bundle, "--fp32", "--save", "none")
    assert call(*words, "--output", tmp_path / "each").exit_code == 0
    assert call(*words, "--output", tmp_path / "debounced", "--reject-after", "2/3").exit_code == 0
    each, debounced = records(tmp_path / "each"), records(tmp_path / "debounced")
    own = [one["outcome"] for one in each]
    assert [own[index] for index in (3, 8, 9, 10)] == ["reject"] * 4
    assert [one["frame_outcome"] for one in debounced] == own
    assert [one["score"] for one in debounced] == [one["score"] for one in each]
    for index, one in enumerate(debounced):
        expected = "reject" if own[max(0, index - 2) : index + 1].count("reject") >= 2 else "good"
        assert one["outcome"] == expected
    assert "frame_outcome" not in each[0]


def test_regions_and_areas(line: Line, belt: Path, tmp_path: Path) -> None:
    words = ("run", belt, "-b", line.bundle, "--fp32", "--save", "none")
    everything = ("--region", "all=0,0,1,1:inf")
    assert call(*words, "--output", tmp_path / "blind", *everything).exit_code == 0
    assert {one["outcome"] for one in records(tmp_path / "blind")} == {"good"}
    assert call(*words, "--output", tmp_path / "strict", "--region", "all=0,0,1,1:-1e9").exit_code == 0
    for one in records(tmp_path / "strict"):
        assert (one["outcome"], one["exceeded"], one["area"]) == ("reject", ["all"], 1024)
    assert call(*words, "--output", tmp_path / "large", "--min-area", "99%").exit_code == 0
    assert {one["outcome"] for one in records(tmp_path / "large")} == {"good"}


def test_a_restarted_service_appends_to_its_verdicts(line: Line, belt: Path, tmp_path: Path) -> None:
    words = ("run", belt, "-b", line.bundle, "--fp32", "--output", tmp_path / "out", "--save", "all", "--append")
    assert call(*words).exit_code == 0
    first = records(tmp_path / "out")
    time.sleep(1)  # the pictures' folder is called by the second
    assert call(*words).exit_code == 0
    both = records(tmp_path / "out")
    assert both[: len(first)] == first
    assert len(both) == 2 * len(first)
    assert [len(list(run.iterdir())) for run in (tmp_path / "out" / "frames").iterdir()] == [len(first)] * 2
    assert call(*words, "--overwrite").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [("--reject-after", "3/2"), ("--min-area", "0"), ("--region", "x"), ("--region", "x=0,0,2,2:1"), ("--policy", "all")],
)
def test_wrong_usage_exits_two_in_one_line(line: Line, words: tuple[str, str]) -> None:
    result = call("run", "x", "-b", line.bundle, *words)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert "Error: Invalid value" in result.output


def test_a_required_gpu_is_never_replaced(line: Line, belt: Path) -> None:
    result = call("run", belt, "-b", line.bundle, "--require-gpu")
    assert result.exit_code == 1
    assert "Error: a GPU is required, and onnxruntime" in result.output or "and openvino" in result.output
    assert "build-engine" in result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(line: Line, belt: Path, number: signal.Signals) -> None:
    script = (
        "import sys, time\nfrom lrdan_edge.runtime.sinks.files import JsonLinesSink\n"
        "JsonLinesSink.write = lambda *_: (print('stuck', flush=True), time.sleep(100))\n"
        "from lrdan_edge.cli.main import main\nmain()"
    )
    words = ["run", str(belt), "--loop", "-b", str(line.bundle), "--output", str(belt.parent / "out"), "--save", "none"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "stuck" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    time.sleep(1)
    assert process.poll() is None, "the first one drains"
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == -number


def test_signal_limits_and_playback_rate_reach_the_sources(line: Line, belt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    plain = opening.open_sources

    def opened(uris: list[str], **options: Any) -> list[Source]:
        seen.update(options)
        return plain(uris, **options)

    monkeypatch.setattr(opening, "open_sources", opened)
    words = ["--rate", "200", "--no-frame-after", "3", "--frozen-after", "0", "--black-after", "0.5", "--insecure"]
    result = call("run", belt, "-b", line.bundle, *words)
    assert result.exit_code == 0, result.output
    assert (seen["rate"], seen["read_timeout_s"], seen["limits"]) == (200, 3, Limits(0, 0.5))
    assert (seen["insecure"], seen["ca_file"]) == (True, None)
    assert call("run", belt, "-b", line.bundle, "--rate", "0").exit_code == 2


def test_problems_beyond_the_first_hundred_are_counted_and_told(line: Line, tmp_path: Path) -> None:
    for index in range(103):
        (tmp_path / "belt").mkdir(exist_ok=True)
        (tmp_path / "belt" / f"{index}.png").write_bytes(b"damaged")
    result = call("run", tmp_path / "belt", "-b", line.bundle, "--output", tmp_path / "out", "--save", "none")
    assert result.exit_code == 1
    assert result.output.count("Problem:") == 101
    assert "Problem: 3 more came after the first 100" in result.output
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (len(told["problems"]), told["more_problems"]) == (100, 3)
