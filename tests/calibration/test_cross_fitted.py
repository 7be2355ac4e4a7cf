"""The threshold of a cross-fitted recipe: from training to what the command line says."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from parts import exposed, rewrite_manifest, surface, write

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.names import DECISION, OUT_OF_FOLD
from lrdan_edge.bundle.out_of_fold import OutOfFold, read_out_of_fold
from lrdan_edge.calibration.calibrate import calibrate
from lrdan_edge.calibration.cross import cross_conformal, pooled_scores
from lrdan_edge.calibration.device import fit_thresholds, last_target
from lrdan_edge.cli.main import cli
from lrdan_edge.errors import BundleError, CalibrationError, ChangedFileError

HELD_OUT = 16


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 parts, each photographed twice."""
    pytest.importorskip("torch")
    from fewer_exports import keep_registry

    from lrdan_edge.export.graph import export
    from lrdan_edge.train.progress import Progress
    from lrdan_edge.train.trainer import TrainOptions, train

    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("cross")
    for part in range(40):
        own = surface(rng, 32)
        for exposure in range(2):
            write(folder / "data" / f"{part:02}-{exposure}.png", exposed(own, rng))
    options = TrainOptions(recipe="padim", device="cpu", group_by=r"(\d+)-")
    bundle = train(folder / "data", folder / "bundle", options, Progress())
    keep_registry()
    export(bundle)
    return bundle.path


@pytest.fixture
def trained(exported: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def said(*words: str) -> str:
    result = CliRunner().invoke(cli, ["calibrate", *words])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def found_in(bundle: Bundle) -> OutOfFold:
    found = read_out_of_fold(bundle)
    assert found
    return found


def test_all_good_images_set_the_threshold_of_every_graph(trained: Path) -> None:
    output = said("-b", str(trained), "--false-reject-rate", "0.05", "--no-int8")
    bundle = Bundle.open(trained)
    found, stage = found_in(bundle), bundle.manifest.stages["calibrate"]
    assert found.held_out == HELD_OUT
    assert stage.inputs[OUT_OF_FOLD] == bundle.manifest.files[OUT_OF_FOLD].sha256
    assert "--threshold-from cross-fitted" in stage.command
    proven = 0.05 * 41 / 9
    sentence = (
        "bout 5.00% of new parts like these are expected to be rejected: 80 images of 40 parts, each scored by a network that did not "
        f"learn from it; proven is only at most {proven:.1%}"
    )
    assert f"A{sentence}." in output
    assert stage.results["promise"] == f"a{sentence}"
    for precision, graph in bundle.decision().graphs.items():
        assert (graph.rule, graph.n, graph.groups, graph.covers, graph.folds) == ("cross-fitted", 80, 40, "parts", 5)
        assert graph.proven_false_reject_rate == pytest.approx(proven)
        scores = dict(zip(graph.good_images, graph.good_scores, strict=True))
        own = np.array([scores[Path(name).name] for name in found.images], np.float32)
        assert own == pytest.approx(pooled_scores(own[:HELD_OUT], found))
        assert graph.threshold == cross_conformal(own, found.folds, 0.05, found.groups).threshold
        assert own == pytest.approx(found.scores, rel={"fp32": 1e-3, "fp16": 0.02}[precision])
    shown = said("-b", str(trained), "--show")
    assert "All 80 good images set it, in 5 folds" in shown
    assert f"A{sentence}." in shown
    again = fit_thresholds(bundle, last_target(bundle)).graphs["fp32"]
    assert (again.rule, again.n) == ("cross-fitted", 80)
    assert again.threshold == pytest.approx(bundle.decision().graphs["fp32"].threshold, rel=1e-4)


def test_more_images_than_were_held_out_allow_a_lower_rate(trained: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(trained)
    with pytest.raises(CalibrationError, match=f"{HELD_OUT} held-out good images cannot promise"):
        calibrate(bundle, int8=False, rule="conformal", false_reject_rate=0.02)
    chosen = calibrate(bundle, int8=False, rule="conformal").graphs["fp32"]
    assert chosen.false_reject_rate > 0.02, "without a given rate, the lowest that the images can promise"
    decided = calibrate(bundle, int8=False).graphs["fp32"]
    assert (decided.covers, decided.false_reject_rate) == ("images", 0.02), "80 images are enough for 2 %, 40 parts are not"
    with pytest.raises(CalibrationError, match="80 good images cannot"):
        calibrate(bundle, int8=False, false_reject_rate=0.001)
    rng = np.random.default_rng(1)
    for part in range(25):
        write(tmp_path / "other" / f"{part}.png", exposed(surface(rng, 32), rng))
    other = str(tmp_path / "other")
    assert "at most 0.05 of good parts rejected, from 25 held-out good images" in said(
        "-b", str(trained), "--decision-only", "--good", other, "--false-reject-rate", "0.05"
    )
    result = CliRunner().invoke(cli, ["calibrate", "-b", str(trained), "--good", other, "--threshold-from", "cross-fitted"])
    assert result.exit_code == 1
    assert "leave --good out, or give --threshold-from conformal" in " ".join(result.output.split())


def test_a_changed_file_is_refused(trained: Path) -> None:
    path = trained / OUT_OF_FOLD
    path.write_bytes(path.read_bytes().replace(b'"schema_version": 1', b'"schema_version": 1 '))
    with pytest.raises(ChangedFileError, match=OUT_OF_FOLD):
        calibrate(Bundle.open(trained), int8=False)
    assert calibrate(Bundle.open(trained), int8=False, rule="conformal", false_reject_rate=0.1).graphs["fp32"].n == HELD_OUT


@pytest.mark.parametrize(
    ("field", "change", "why"),
    [
        ("scores", lambda values: values[1:], "its lists differ in length"),
        ("images", lambda values: values[::-1], "its first images are not the held-out images"),
        ("folds", lambda values: [0] * len(values), "its first images are not the held-out images"),
        ("folds", lambda values: [*values[:-1], 0], "its first images are not the held-out images"),
        ("folds", lambda values: [*values[:-1], 9], "a group is in two folds"),
        ("scores", lambda values: ["1", *values[1:]], "cannot be read"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(trained: Path, field: str, change: Any, why: str) -> None:
    import hashlib
    import json

    path = trained / OUT_OF_FOLD
    content = json.loads(path.read_bytes())
    content[field] = change(content[field])
    path.write_text(json.dumps(content))
    sha256, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    rewrite_manifest(trained, lambda fields: fields["files"][OUT_OF_FOLD].update(sha256=sha256, bytes=size))
    with pytest.raises(BundleError, match=why):
        calibrate(Bundle.open(trained), int8=False)


def test_a_bundle_of_an_earlier_version_keeps_its_rule(trained: Path) -> None:
    def forget(fields: dict[str, Any]) -> None:
        del fields["files"][OUT_OF_FOLD]
        fields["stages"]["train"]["outputs"].remove(OUT_OF_FOLD)

    rewrite_manifest(trained, forget)
    bundle = Bundle.open(trained)
    decided = calibrate(bundle, int8=False, false_reject_rate=0.1).graphs["fp32"]
    assert (decided.rule, decided.n, decided.folds, decided.proven_false_reject_rate) == ("conformal", HELD_OUT, None, None)
    assert OUT_OF_FOLD not in bundle.manifest.stages["calibrate"].inputs
    assert DECISION in bundle.manifest.stages["calibrate"].outputs
    with pytest.raises(CalibrationError, match="has no out-of-fold scores"):
        calibrate(bundle, int8=False, rule="cross-fitted")
