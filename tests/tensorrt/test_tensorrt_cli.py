"""`build-engine` for TensorRT as a user meets it on a machine without a GPU, with NVIDIA's real parser and builder."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from parts import Line

from lrdan_edge.backends.nvidia import MODULES
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import from_json
from lrdan_edge.bundle.engine_sidecar import EngineSidecar
from lrdan_edge.bundle.names import TIMING_CACHE, engine_stage

NO_GPU = "no NVIDIA GPU is found here"


@pytest.fixture
def without_gpu(tensorrt_env: dict[str, str]) -> dict[str, str]:
    return tensorrt_env | {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "300"}


@pytest.fixture
def official_without_gpu(official_env: dict[str, str]) -> dict[str, str]:
    return official_env | {"CUDA_VISIBLE_DEVICES": ""}


def call(environment: dict[str, str], *words: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lrdan_edge", *map(str, words)]
    finished = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in finished.stdout + finished.stderr
    return finished


def succeeds(environment: dict[str, str], *words: object, folder: Path | None = None) -> str:
    finished = call(environment, *words, folder=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stderr == ""
    return finished.stdout


def refuses(environment: dict[str, str], *words: object) -> str:
    """The command's one line."""
    finished = call(environment, *words)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def test_engines_of_every_precision_are_built_and_reported_as_not_running_here(
    own_line: Line, without_gpu: dict[str, str]
) -> None:
    folder = own_line.bundle
    printed = [
        succeeds(without_gpu, "build-engine", "--fp16", folder=folder.parent),  # ./bundle, as typed
        succeeds(without_gpu, "build-engine", "--int8", "--bundle", folder, "--batch", "2:3:4", "--batch", "1"),
        succeeds(without_gpu, "build-engine", "--fp32", "--bundle", folder, "--optimization-level", 0),
    ]
    bundle = Bundle.open(folder)
    told = succeeds(without_gpu, "info", "--bundle", folder)
    batches = {"fp16": (1, 1, 8), "int8": (1, 3, 4), "fp32": (1, 1, 8)}
    for precision, output in zip(batches, printed, strict=True):
        (name,) = re.findall(rf"engines/(tensorrt-{precision}-\S+\.plan): ", output)
        record = bundle.manifest.stages[engine_stage(name)]
        assert record.outputs == [f"engines/{name}", f"engines/{name}.json"]
        assert bundle.file(f"engines/{name}", "x").stat().st_size > 10_000
        sidecar = from_json(bundle.file(f"engines/{name}.json", "x").read_bytes(), EngineSidecar, name)
        assert (sidecar.precision, sidecar.batch, sidecar.device_features) == (precision, batches[precision], [])
        assert sidecar.details["batches"] == ([[2, 3, 4], [1, 1, 1]] if precision == "int8" else [[1, 1, 8]])
        assert (sidecar.details["module"], sidecar.target_version) == ("tensorrt_rtx", sidecar.details["tensorrt"])
        assert sidecar.details["optimization_level"] == (0 if precision == "fp32" else 3)
        assert str(sidecar.golden_check).startswith("not measured: ")
        assert record.seconds >= sidecar.details["build_seconds"] > 0, "the build counts"
        assert f" in {record.seconds:.1f} s; not measured: " in output
        assert f"engine {name}: {NO_GPU}" in told
    assert "--optimization-level 0" in record.command

    refusal = refuses(without_gpu, "run", own_line.data / "test", "--bundle", folder, "--backend", "tensorrt")
    assert f"no tensorrt runs here (tensorrt fp16: {NO_GPU}, rebuild with " in refusal
    onnxruntime = succeeds(without_gpu, "run", own_line.data / "test/good", "--bundle", folder, "--fp32")
    assert f"tensorrt fp32: {NO_GPU}" in onnxruntime, "auto says why it passed the engine over"


def test_the_timing_cache_is_in_the_bundle_and_the_log_at_the_given_path(
    own_line: Line, official_without_gpu: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "build.log"
    succeeds(official_without_gpu, "build-engine", "--fp16", "--bundle", own_line.bundle, "--verbose-log", log)
    assert "\nV " in log.read_text()
    assert (own_line.bundle / TIMING_CACHE).stat().st_size > 0
    assert TIMING_CACHE not in Bundle.open(own_line.bundle).manifest.files
    assert json.loads(succeeds(official_without_gpu, "info", "--json", "--bundle", own_line.bundle))["damaged"] == {}


@pytest.mark.parametrize("words", [("--optimization-level", 6), ("--verbose-log", ".")])
def test_invalid_options_exit_two(own_line: Line, without_gpu: dict[str, str], words: tuple[object, ...]) -> None:
    assert call(without_gpu, "build-engine", "--fp16", "--bundle", own_line.bundle, *words).returncode == 2


def test_without_tensorrt_one_line_says_how_to_install_it(own_line: Line, without_gpu: dict[str, str], tmp_path: Path) -> None:
    for name in MODULES:  # found before any that is installed, and says that it is not
        (tmp_path / "none" / name).mkdir(parents=True)
        text = f"raise ModuleNotFoundError('No module named {name}', name='{name}')\n"
        (tmp_path / "none" / name / "__init__.py").write_text(text)
    environment = without_gpu | {"PYTHONPATH": str(tmp_path / "none")}
    before = Bundle.open(own_line.bundle).manifest
    line = refuses(environment, "build-engine", "--fp16", "--bundle", own_line.bundle)
    assert re.search(r"TensorRT.*(pip install 'lrdan-edge\[tensorrt\]'|--system-site-packages)", line)
    assert Bundle.open(own_line.bundle).manifest == before
