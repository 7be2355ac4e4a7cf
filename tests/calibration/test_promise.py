"""From parts with several images to a promise for new parts: training, calibration, and what the command line says."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from parts import exposed, rewrite_manifest, surface, write

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.calibration.calibrate import calibrate
from lrdan_edge.calibration.decision import conformal_threshold
from lrdan_edge.calibration.device import fit_thresholds, last_target
from lrdan_edge.calibration.report import CalibrationReport
from lrdan_edge.cli.main import cli


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 parts, each photographed five times."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("parts")
    for part in range(60):
        own = surface(rng, 48)
        for exposure in range(5):
            write(folder / f"{part:02}-{exposure}.png", exposed(own, rng))
    return folder


@pytest.fixture(scope="module")
def exported(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    from fewer_exports import keep_registry

    from lrdan_edge.export.graph import export
    from lrdan_edge.train.progress import Progress
    from lrdan_edge.train.trainer import TrainOptions, train

    path = tmp_path_factory.mktemp("promise") / "bundle"
    bundle = train(data, path, TrainOptions(recipe="lrdan", epochs=2, device="cpu"), Progress())
    keep_registry()
    export(bundle)
    return path


@pytest.fixture
def trained(exported: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def test_training_holds_out_whole_parts_and_records_them(trained: Path) -> None:
    stage = Bundle.open(trained).manifest.stages["train"]
    assert "group-by" not in stage.command, "auto is the default"
    assert stage.options["group_by"] == "auto"
    names = [Path(name).name.split("-")[0] for name in stage.results["held_out"]]
    assert not set(names) & {Path(name).name.split("-")[0] for name in stage.results["training"]}
    assert stage.results["held_out_groups"] == len(set(names)) == 12
    assert len(set(zip(names, stage.results["held_out_group_of"], strict=True))) == 12
    assert any("60 held-out images of 12 parts (told apart by image similarity)" in note for note in stage.results["notes"])


def test_a_rate_that_the_parts_can_promise_covers_new_parts(trained: Path) -> None:
    result = CliRunner().invoke(cli, ["calibrate", "--bundle", str(trained), "--false-reject-rate", "0.1"])
    assert result.exit_code == 0, result.output
    sentence = "promised 10.00% holds for new parts like these: 60 held-out images of 12 parts"
    assert f"The {sentence}." in " ".join(result.output.split())
    bundle = Bundle.open(trained)
    stage = bundle.manifest.stages
    assert stage["calibrate"].results["promise"] == f"the {sentence}"
    assert f"The {sentence}." in (trained / "reports/calibration.md").read_text()
    report = msgspec.json.decode((trained / "reports/calibration.json").read_bytes(), type=CalibrationReport)
    groups = dict(
        zip(
            (Path(name).name for name in stage["train"].results["held_out"]),
            stage["train"].results["held_out_group_of"],
            strict=True,
        )
    )
    for precision, graph in bundle.decision().graphs.items():
        assert (graph.groups, graph.covers) == (12, "parts")
        own = [groups[name] for name in graph.good_images]
        assert (
            graph.threshold
            == report.thresholds[precision]
            == conformal_threshold(np.array(graph.good_scores, np.float32), 0.1, own)
        )
    shown = " ".join(CliRunner().invoke(cli, ["calibrate", "--bundle", str(trained), "--show"]).output.split())
    assert "Each of the 12 parts counts once" in shown
    assert "average over sets of 12 parts" in shown
    before = bundle.decision().graphs["fp32"]
    again = fit_thresholds(bundle, last_target(bundle)).graphs["fp32"]
    assert (again.groups, again.covers) == (12, "parts")
    assert again.threshold == pytest.approx(before.threshold, rel=1e-4)


def test_a_rate_that_only_the_images_can_promise_says_so(trained: Path) -> None:
    words = ["calibrate", "--bundle", str(trained), "--no-int8", "--false-reject-rate", "0.02"]
    said = "the 60 held-out images show 12 parts: 2.00% false rejects holds for more images of these parts"
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert f"T{said[1:]}" in " ".join(result.output.split())
    assert {graph.covers for graph in Bundle.open(trained).decision().graphs.values()} == {"images"}


def test_the_parts_of_other_good_images_are_told_by_similarity(trained: Path, tmp_path: Path) -> None:
    calibrate(Bundle.open(trained), int8=False)
    rng = np.random.default_rng(9)
    for part in range(20):
        own = surface(rng, 48)
        for exposure in range(3):
            write(tmp_path / "other" / f"{part}-{exposure}.png", exposed(own, rng))
    fitted = fit_thresholds(Bundle.open(trained), last_target(Bundle.open(trained)), good=tmp_path / "other")
    assert fitted.graphs["fp32"].n == 60
    assert fitted.graphs["fp32"].groups == 20


def test_a_bundle_of_an_earlier_version_promises_what_it_did(trained: Path) -> None:
    def forget(fields: dict[str, Any]) -> None:
        del fields["stages"]["train"]["results"]["held_out_group_of"]

    rewrite_manifest(trained, forget)
    result = CliRunner().invoke(cli, ["calibrate", "--bundle", str(trained), "--no-int8", "--false-reject-rate", "0.05"])
    assert result.exit_code == 0, result.output
    assert "Note: the 60 held-out images show 12 parts" in " ".join(result.output.split())
    graph = Bundle.open(trained).decision().graphs["fp32"]
    assert (graph.groups, graph.covers) == (None, "images")
    assert graph.threshold == conformal_threshold(np.array(graph.good_scores, np.float32), 0.05)


def test_none_holds_out_single_images(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    words = [
        "train",
        str(data),
        "--bundle",
        str(tmp_path / "bundle"),
        "--recipe",
        "lrdan",
        "--epochs",
        "1",
        "--group-by",
        "none",
    ]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    stage = Bundle.open(tmp_path / "bundle").manifest.stages["train"]
    assert "--group-by none" in stage.command
    assert (stage.results["held_out_groups"], stage.results["held_out_group_of"]) == (None, None)
    assert any("300 of 300 good images have near-copies" in note for note in stage.results["notes"])
