"""The command line as a user meets it: right and wrong input, one line, the right exit status, nothing lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from parts import Line, good_image, rewrite_manifest, snapshot, write
from read_only import read_only

from lrdan_edge.cli.main import cli
from lrdan_edge.cli.options import next_step
from lrdan_edge.runtime.sources.native import quiet


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def refused(result: Result, *said: str, code: int = 1) -> None:
    """The command ended with `code` and one line that says what is wrong."""
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    for part in said:
        assert part in lines[0]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(12):
        write(tmp_path / "images" / f"{index}.png", good_image(rng))
    return tmp_path / "images"


def video_of(path: Path, frames: int = 30) -> Path:
    rng = np.random.default_rng(0)
    with quiet:  # FFmpeg keeps the log level of its first use in a process
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (32, 32))
        for _ in range(frames):
            writer.write(cv2.cvtColor(good_image(rng), cv2.COLOR_GRAY2BGR))
        writer.release()
    return path


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [(("train", "x"), "torch", "train"), (("demo",), "skimage", "demo"), (("export",), "torch", "train")],
)
def test_a_missing_extra_is_named(
    words: tuple[str, ...], module: str, extra: str, own_line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRDAN_BUNDLE", str(own_line.bundle))
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    refused(call(*words), f"needs {module}", f"pip install 'lrdan-edge[{extra}]'")


def test_training_on_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(call("train", tmp_path / "empty", "-b", tmp_path / "b"), "holds no image")
    refused(call("train", tmp_path / "none", "-b", tmp_path / "b"), "does not exist")
    assert not (tmp_path / "b" / "manifest.json").exists()


def test_training_on_a_corrupt_image_names_it_before_it_starts(images: Path, tmp_path: Path) -> None:
    data = (images / "3.png").read_bytes()
    (images / "3.png").write_bytes(data[: len(data) // 2])
    refused(call("train", images, "-b", tmp_path / "b"), "3.png", "is not a complete image")


def test_training_on_images_of_mixed_size_needs_a_size(images: Path, tmp_path: Path) -> None:
    write(images / "13.png", np.zeros((48, 40), np.uint8))
    refused(call("train", images, "-b", tmp_path / "b"), "--image-size", "32", "48")


@pytest.mark.parametrize(
    "words",
    [
        ("train",),
        ("train", "x", "--image-size", "big"),
        ("train", "x", "--image-size", "0"),
        ("train", "x", "--epochs", "0"),
        ("build-engine",),
        ("build-engine", "--fp16", "--batch", "8:4:1"),
        ("build-engine", "--fp12"),
        ("calibrate", "--false-reject-rate", "1"),
        ("run", "x", "--backend", "cuda"),
        ("nonsense",),
    ],
)
def test_wrong_usage_exits_two(words: tuple[str, ...]) -> None:
    refused(call(*words), code=2)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("export",), "lrdan-edge train"),
        (("calibrate",), "lrdan-edge train"),
        (("build-engine", "--int8", "--target", "onnxruntime"), "lrdan-edge train"),
        (("run", "0"), "lrdan-edge train"),
        (("bench",), "lrdan-edge train"),
        (("info",), "lrdan-edge train"),
    ],
)
def test_without_a_bundle_the_command_that_makes_one_is_named(words: tuple[str, ...], command: str, tmp_path: Path) -> None:
    refused(call(*words, "-b", tmp_path / "b"), command)


def test_a_missing_stage_is_named(own_line: Line) -> None:
    def forget_calibration(manifest: dict[str, Any]) -> None:
        for name in manifest["stages"].pop("calibrate")["outputs"]:
            del manifest["files"][name]

    rewrite_manifest(own_line.bundle, forget_calibration)
    refused(call("run", own_line.data / "test" / "good", "-b", own_line.bundle), "lrdan-edge calibrate")
    refused(call("build-engine", "--int8", "--target", "onnxruntime", "-b", own_line.bundle), "lrdan-edge calibrate")


def test_a_bundle_of_another_schema_version(own_line: Line) -> None:
    path = own_line.bundle / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 7'))
    refused(call("info", "-b", own_line.bundle), "schema version 7")


@pytest.mark.parametrize("name", ["model.int8.onnx", "model.int8.cpu.onnx"])
def test_a_changed_file(own_line: Line, name: str) -> None:
    graph = own_line.bundle / name
    graph.write_bytes(graph.read_bytes() + b"x")
    refused(call("run", own_line.data / "test" / "good", "-b", own_line.bundle, "--int8"), "changed after it was made")
    result = call("info", "-b", own_line.bundle)
    assert result.exit_code == 1
    assert "changed after it was made" in result.output


@pytest.mark.parametrize("source", ["nothing.mp4", "ftp://host/x", "/dev/video77", ""])
def test_an_unknown_source(line: Line, source: str) -> None:
    refused(call("run", source, "-b", line.bundle))


def test_run_over_a_folder_writes_verdicts_and_images(line: Line, tmp_path: Path) -> None:
    result = call("run", line.data / "test" / "blob", "-b", line.bundle, "--output", tmp_path / "out", "--fp32")
    assert result.exit_code == 0, result.output
    assert "20 frames in" in result.output
    records = [json.loads(text) for text in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert len(records) == 20
    assert sum(record["outcome"] == "reject" for record in records) >= 18
    assert len(list((tmp_path / "out" / "frames").iterdir())) == 20
    refused(call("run", line.data / "test" / "blob", "-b", line.bundle, "--output", tmp_path / "out"), "--overwrite")


def test_a_video_that_ends_early_keeps_its_verdicts_and_fails(line: Line, tmp_path: Path) -> None:
    whole = video_of(tmp_path / "whole.avi")
    assert call("run", whole, "-b", line.bundle, "--output", tmp_path / "whole").exit_code == 0
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    result = call("run", cut, "-b", line.bundle, "--output", tmp_path / "cut")
    assert result.exit_code == 1
    assert result.output.count("Problem:") == 1
    records = [json.loads(text) for text in (tmp_path / "cut" / "verdicts.jsonl").read_text().splitlines()]
    assert len(records) > 10
    assert records[-1]["outcome"] == "fault"
    assert {record["outcome"] for record in records[:-1]} <= {"good", "reject"}


def test_a_corrupt_image_is_a_fault_and_the_others_are_inspected(line: Line, images: Path, tmp_path: Path) -> None:
    (images / "5.png").write_bytes(b"no image")
    result = call("run", images, "-b", line.bundle, "--output", tmp_path / "out")
    assert result.exit_code == 1
    records = [json.loads(text) for text in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert [record["name"] for record in records if record["outcome"] == "fault"] == ["5.png"]
    assert len(records) == 12


def test_evaluate_bench_and_info_print_their_figures(own_line: Line) -> None:
    build = call("build-engine", "--int8", "--target", "onnxruntime", "-b", own_line.bundle)
    assert build.exit_code == 0, build.output
    evaluation = call("evaluate", own_line.data, "-b", own_line.bundle)
    assert evaluation.exit_code == 0, evaluation.output
    assert "image AUROC" in evaluation.output
    benchmark = call("bench", "-b", own_line.bundle, "--seconds", "1", "--rounds", "3", "--batch", "1")
    assert benchmark.exit_code == 0, benchmark.output
    assert "torch fp32" in benchmark.output
    shown = call("info", "-b", own_line.bundle)
    assert shown.exit_code == 0, shown.output
    assert "runs here" in shown.output
    facts = json.loads(call("info", "--json", "-b", own_line.bundle).output)
    assert facts["damaged"] == facts["stale"] == {}
    for name in ("evaluation.json", "evaluation.md", "evaluation-roc.png", "benchmark.json", "benchmark.md", "benchmark.png"):
        assert (own_line.bundle / "reports" / name).stat().st_size > 0


def test_a_bundle_on_a_read_only_disk_is_shown_run_and_evaluated(own_line: Line, tmp_path: Path) -> None:
    before = snapshot(own_line.bundle)
    with read_only(own_line.bundle):
        shown = call("info", "-b", own_line.bundle)
        ran = call("run", own_line.data / "test" / "blob", "-b", own_line.bundle, "--output", tmp_path / "out")
        evaluated = call("evaluate", own_line.data, "-b", own_line.bundle)
        refused(call("export", "-b", own_line.bundle), "cannot be written (Permission denied")
    assert (shown.exit_code, ran.exit_code, evaluated.exit_code) == (0, 0, 0), (shown.output, ran.output, evaluated.output)
    assert "image AUROC" in evaluated.output
    assert f"{own_line.bundle} cannot be written, so the figures are not kept in it" in " ".join(evaluated.output.split())
    assert snapshot(own_line.bundle) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_the_loop_and_exits_zero(line: Line, tmp_path: Path, number: signal.Signals) -> None:
    video = video_of(tmp_path / "belt.avi", 50)
    out = tmp_path / "out"
    words = ["run", str(video), "--loop", "--realtime", "-b", str(line.bundle), "--output", str(out), "--save", "none"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lrdan_edge", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not ((out / "verdicts.jsonl").exists() and (out / "verdicts.jsonl").stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    frames = int(output.split(" frames in")[0].split()[-1])
    assert len((out / "verdicts.jsonl").read_text().splitlines()) == frames > 0


def test_interrupted_training_leaves_a_usable_bundle(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from fewer_exports import export_one_graph

    words = [
        "train",
        str(images),
        "-b",
        str(tmp_path / "b"),
        *["--recipe", "lrdan", "--image-size", "32", "--epochs", "100000"],
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "lrdan_edge", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "b" / ".staging").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(3)  # some steps
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Stopped early" in output
    assert call("info", "-b", tmp_path / "b").exit_code == 0
    export_one_graph(monkeypatch)
    assert call("export", "-b", tmp_path / "b").exit_code == 0


def test_engines_are_listed_inspected_and_verified(own_line: Line) -> None:
    bundle = own_line.bundle
    assert "has no engines" in call("engine", "list", "-b", bundle).output
    refused(call("engine", "inspect", "x.plan", "-b", bundle), "no engine 'x.plan'")
    built = call("build-engine", "--int8", "--target", "onnxruntime", "-b", bundle)
    assert built.exit_code == 0, built.output
    (name,) = re.findall(r"engines/(\S+\.onnx): ", built.output)

    listed = json.loads(call("engine", "list", "--json", "-b", bundle).output)
    assert [(engine["name"], engine["obstacle"]) for engine in listed] == [(name, None)]
    assert name in call("engine", "list", "-b", bundle).output
    inspected = json.loads(call("engine", "inspect", name, "--json", "-b", bundle).output)
    assert inspected["bytes"] == (bundle / "engines" / name).stat().st_size
    assert {layer["precision"] for layer in inspected["sidecar"]["layers"]} >= {"int8", "fp32"}
    shown = call("engine", "inspect", name, "-b", bundle).output
    assert re.search(r"precision got\s+.*\d+ layers int8", shown)
    assert "QLinearConv" in shown
    verified = call("engine", "verify", "-b", bundle)
    assert verified.exit_code == 0, verified.output
    assert re.search(r"scores +ok +within", verified.output)

    (bundle / "engines" / f"{name}.sig").unlink()
    doubted = call("engine", "verify", name, "-b", bundle)
    assert doubted.exit_code == 1
    assert re.search(r"signature +FAILED", doubted.output)
    refused(call("engine", "trust", name, "--sha256", "0" * 64, "-b", bundle), "does not have the sha256 that you gave")
    sha256 = inspected["sidecar"]["engine_sha256"]
    assert call("engine", "trust", name, "--sha256", sha256, "-b", bundle).exit_code == 0
    assert call("engine", "verify", name, "-b", bundle).exit_code == 0


def test_the_next_step_is_for_the_bundle_that_was_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With LRDAN_BUNDLE set and another --bundle given, the step named used to work on the variable's."""
    monkeypatch.setenv("LRDAN_BUNDLE", "/srv/a")
    next_step("Done.", "export", Path("/srv/a"))
    next_step("Done.", "export", Path("/srv/my b"))
    assert capsys.readouterr().out == "Done. Next: lrdan-edge export\nDone. Next: lrdan-edge export --bundle '/srv/my b'\n"
