"""The base package on processors that this machine is not, each emulated: old x86-64 ones, and Arm ones like the Jetsons'.

A bundle made on a workstation has to mean the same numbers on whatever device it comes to.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from machines import ARM_MAX, CORTEX_A57, CORTEX_A76, HASWELL, NEHALEM, Processor, emulated
from shipped import Device, assert_exact_int8, assert_same_scores, scores_of

from lrdan_edge.backends.processor import processor
from lrdan_edge.cli.main import cli

HERE = Path(__file__).parent
QUICK = (HASWELL, NEHALEM, CORTEX_A76)
EVERY = (*QUICK, CORTEX_A57, ARM_MAX)
pytestmark = pytest.mark.timeout(900)  # the first time, parts are downloaded


def check(finished: "subprocess.CompletedProcess[str]", code: int = 0) -> str:
    """What a command printed, which ended with that code."""
    assert finished.returncode == code, f"{finished.args}: {finished.stdout}{finished.stderr}"
    return finished.stdout + finished.stderr


@dataclass(frozen=True)
class Visit:
    """What a bundle did on an emulated processor.

    Attributes:
        emulated: Which processor that was.
        processor: What `lrdan_edge` took it for.
        info: What ``info`` printed.
        device: The bundle that was there, with its evaluation.
        output: Where ``run`` wrote, a folder for each precision.
    """

    emulated: Processor
    processor: dict[str, Any]
    info: str
    device: Device
    output: Path


@pytest.fixture(
    scope="module", params=[pytest.param(one, id=str(one), marks=() if one in QUICK else pytest.mark.slow) for one in EVERY]
)
def visit(request: pytest.FixtureRequest, device: Device, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """Several commands in one process there."""
    folder = tmp_path_factory.mktemp(str(request.param))
    there = device.copied_to(folder)
    python = emulated(request.param, folder / "packages")
    commands = [there.run(precision, folder / precision) for precision in ("fp32", "int8")]
    commands += [there.evaluate(), ["info", "--bundle", str(there.bundle)]]
    finished = python.python(HERE / "on_processor.py", json.dumps(commands))
    check(finished)
    told = json.loads(finished.stdout.splitlines()[-1])
    for words, (code, output) in zip(commands, told["results"], strict=True):
        assert code == 0, f"{words}: {output}"
    return Visit(request.param, told["processor"], told["results"][-1][1], there, folder)


@pytest.fixture(scope="module")
def workstation(device: Device, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """Fp32 on this machine itself."""
    folder = tmp_path_factory.mktemp("workstation")
    here = device.copied_to(folder)
    for words in (here.run("fp32", folder / "fp32"), here.evaluate()):
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 0, result.output
    return Visit(HASWELL, {}, "", here, folder)


def test_a_processor_is_identified_by_its_instruction_sets(visit: Visit) -> None:
    assert visit.processor["platform"] == f"linux-{visit.emulated.machine}"
    assert set(visit.processor["features"]) == visit.emulated.features


def test_fp32_scores_are_the_workstations(visit: Visit, workstation: Visit) -> None:
    assert_same_scores(scores_of(visit.output / "fp32"), scores_of(workstation.output / "fp32"))


def test_int8_scores_are_those_of_the_exact_computation(visit: Visit, device: Device) -> None:
    assert_exact_int8(scores_of(visit.output / "int8"), device.exact_scores("int8"))


def test_an_evaluation_gives_the_same_result_on_the_emulated_processor(visit: Visit, workstation: Visit) -> None:
    assert visit.device.figures() == pytest.approx(workstation.device.figures())


def test_info_works_on_the_emulated_processor(visit: Visit) -> None:
    for words in ("train", "export", "calibrate", "evaluate", "fp32: threshold", "int8: threshold"):
        assert words in visit.info


@pytest.mark.slow
@pytest.mark.parametrize("model", EVERY, ids=str)
def test_every_command_works_in_a_separate_process(
    model: Processor, device: Device, workstation: Visit, tmp_path: Path
) -> None:
    there = device.copied_to(tmp_path)
    python = emulated(model, tmp_path / "packages")
    bundle = ("--bundle", str(there.bundle))
    assert "fp32: threshold" in check(python.lrdan_edge("info", *bundle))
    check(python.lrdan_edge(*there.run("fp32", tmp_path / "graph")))
    check(python.lrdan_edge(*there.evaluate()))
    for precision in ("fp32", "int8"):
        said = check(python.lrdan_edge("build-engine", f"--{precision}", "--target", "onnxruntime", *bundle))
        assert "on the golden frames, relative" in said
    verified = check(python.lrdan_edge("engine", "verify", *bundle))
    for precision in ("fp32", "int8"):
        (engine,) = (there.bundle / "engines").glob(f"onnxruntime-{precision}-*.onnx")
        assert engine.name in verified.replace("\n", "")
        assert set(json.loads(engine.with_name(f"{engine.name}.json").read_text())["device_features"]) == model.features
        assert "(graph)" not in check(python.lrdan_edge(*there.run(precision, tmp_path / precision)))
    assert_same_scores(scores_of(tmp_path / "graph"), scores_of(workstation.output / "fp32"))
    assert_same_scores(scores_of(tmp_path / "fp32"), scores_of(workstation.output / "fp32"))
    assert_exact_int8(scores_of(tmp_path / "int8"), device.exact_scores("int8"))


@pytest.mark.slow
def test_an_engine_for_this_machine_is_refused_without_its_instructions(device: Device, tmp_path: Path) -> None:
    if "avx2" not in processor().features:
        pytest.skip("this machine has no AVX2")
    there = device.copied_to(tmp_path)
    built = CliRunner().invoke(cli, ["build-engine", "--fp32", "--target", "onnxruntime", "--bundle", str(there.bundle)])
    assert built.exit_code == 0, built.output
    said = check(emulated(NEHALEM, tmp_path / "packages").lrdan_edge(*there.run("fp32", tmp_path / "output")))
    assert "passed over: onnxruntime fp32: it was built for" in " ".join(said.split())
    assert "rebuild with" in said
