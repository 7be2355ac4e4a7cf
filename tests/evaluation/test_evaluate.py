import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from parts import Line, snapshot
from read_only import read_only
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from lrdan_edge import Inspector
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.decision import ThresholdRule
from lrdan_edge.calibration.decision import ThresholdTarget
from lrdan_edge.calibration.device import fit_thresholds
from lrdan_edge.cli.main import cli
from lrdan_edge.data.dataset import test_images as labelled_images
from lrdan_edge.data.images import read_image
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.errors import DataError
from lrdan_edge.evaluation.evaluate import as_markdown, evaluate, kind_rows
from lrdan_edge.evaluation.result import Evaluation


def test_figures_match_a_count_by_hand(own_line: Line) -> None:
    bundle = Bundle.open(own_line.bundle)
    result, pictures = evaluate(bundle, own_line.data, backend="onnxruntime", precision="fp32")
    labels, scores, outcomes, pixels, truth = [], [], [], [], []
    with Inspector.open(bundle, backend="onnxruntime", precision="fp32") as inspector:
        for image in labelled_images(own_line.data):
            (verdict,) = inspector.inspect(read_image(image.path))
            labels.append(image.defective)
            assert verdict.score is not None
            scores.append(verdict.score)
            outcomes.append(verdict.outcome)
            assert verdict.heatmap is not None
            pixels.append(verdict.heatmap.ravel())
            mask = read_image(image.mask) > 0 if image.mask else np.zeros((32, 32), bool)
            truth.append(mask.ravel())
    good = [outcome for outcome, defective in zip(outcomes, labels, strict=True) if not defective]
    bad = [outcome for outcome, defective in zip(outcomes, labels, strict=True) if defective]
    assert result.image_auroc == pytest.approx(roc_auc_score(labels, scores))
    assert result.pixel_auroc == pytest.approx(roc_auc_score(np.concatenate(truth), np.concatenate(pixels)), abs=1e-3)
    assert result.false_reject_rate == good.count("reject") / len(good)
    assert result.miss_rate == bad.count("good") / len(bad)
    assert (result.good, result.defective, result.faults) == (20, 20, 0)
    found = binomtest(bad.count("reject"), len(bad)).proportion_ci(0.95, "exact")
    recall, at = result.recall, result.recall_at_2_percent
    assert recall is not None
    assert at is not None
    assert (recall.value, recall.low, recall.high) == pytest.approx((1 - result.miss_rate, found.low, found.high))
    values, defective = np.array(scores), np.array(labels)
    assert at.value == np.mean(values[defective] > values[~defective].max())
    kind = dict(result.kinds["blob"])
    assert kind.pop("image_auroc") == pytest.approx(result.image_auroc)
    assert kind == {
        "images": 20,
        "miss_rate": result.miss_rate,
        "recall": recall.value,
        "recall_low": recall.low,
        "recall_high": recall.high,
        "recall_at_2_percent": at.value,
        "recall_at_2_percent_low": at.low,
        "recall_at_2_percent_high": at.high,
    }
    for picture in pictures:
        assert cv2.imread(str(picture)) is not None
    written = json.loads((bundle.path / "reports" / "evaluation.json").read_text())
    assert written["image_auroc"] == result.image_auroc
    page = (bundle.path / "reports" / "evaluation.md").read_text()
    assert f"{result.image_auroc:.4f}" in page
    assert written["recall_at_2_percent"] == {"value": at.value, "low": at.low, "high": at.high}
    assert f"| recall at the threshold | {recall.in_words()} |" in page
    assert f"| recall at 2% false rejects | {at.in_words()}; with 20 good images, none of them rejected |" in page
    assert f"| blob | 20 | {recall.in_short()} | {at.in_short()} |" in page


def test_results_of_earlier_versions_are_still_read() -> None:
    kinds = {"crack": {"images": 28, "image_auroc": 0.85, "miss_rate": 0.46}}
    rates = {
        "good": 111,
        "defective": 28,
        "image_auroc": 0.85,
        "pixel_auroc": None,
        "false_reject_rate": 0.1,
        "miss_rate": 0.46,
    }
    earlier = {"backend": "openvino fp32", "threshold": 1.0, "promised_false_reject_rate": 0.1, "faults": 0, **rates}
    result = msgspec.convert({**earlier, "kinds": kinds}, Evaluation)
    assert result.recalls_in_words() == {}
    assert kind_rows(result) == [["crack", "28", "", "", "0.8500", "46.00%"]]


def test_an_evaluation_depends_on_the_engine_it_measured(own_line: Line) -> None:
    bundle = Bundle.open(own_line.bundle)
    name = build_engine(bundle, BuildRequest("fp32", "onnxruntime"))
    evaluate(bundle, own_line.data, backend="onnxruntime", precision="fp32")
    stage = bundle.manifest.stages["evaluate"]
    assert f"engines/{name}" in stage.inputs
    assert stage.command == f"lrdan-edge evaluate {shlex.quote(str(own_line.data))} --backend onnxruntime --fp32"
    assert bundle.staleness("evaluate") is None
    fit_thresholds(bundle, ThresholdTarget(false_reject_rate=0.1))
    assert bundle.staleness("evaluate") is not None


def test_a_folder_without_defects_is_refused(own_line: Line) -> None:
    with pytest.raises(DataError, match="has no folder 'test'"):
        evaluate(Bundle.open(own_line.bundle), own_line.data / "train")


def test_good_parts_beside_defects_are_measured_without_those_that_training_used(own_line: Line, tmp_path: Path) -> None:
    for name, part in (("OK", "test/good"), ("NG", "test/blob"), ("mask", "ground_truth/blob")):
        shutil.copytree(own_line.data / part, tmp_path / "parts" / name)
    bundle = Bundle.open(own_line.bundle)
    expected, _ = evaluate(bundle, own_line.data, write=False)
    found, _ = evaluate(bundle, tmp_path / "parts", write=False)
    assert (found.good, found.image_auroc, found.pixel_auroc) == (expected.good, expected.image_auroc, expected.pixel_auroc)
    assert list(found.kinds) == ["NG"]
    first = bundle.manifest.stages["train"].results["training"][0]
    (tmp_path / "parts/OK/trained.png").symlink_to(own_line.data / first)
    assert evaluate(bundle, tmp_path / "parts", write=False)[0].good == expected.good
    for path in (tmp_path / "parts/OK").iterdir():
        if not path.is_symlink():
            path.unlink()
    with pytest.raises(DataError, match="training used every good image"):
        evaluate(bundle, tmp_path / "parts", write=False)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("conformal", ["; promised 5%: (kept on these parts|within what 20 parts can show)", ""]),
        ("recall", ["", "; promised 10%: (kept on these parts|within what 20 parts can show)"]),
        ("best-f1", ["; the threshold's rule promises nothing"] * 2),
    ],
)
def test_only_a_promised_rate_is_called_promised(own_line: Line, rule: ThresholdRule, said: list[str]) -> None:
    bundle = Bundle.open(own_line.bundle)
    fit_thresholds(bundle, ThresholdTarget(rule, 0.05, 0.9), defects=own_line.data)
    result, _ = evaluate(bundle, own_line.data, backend="onnxruntime", precision="fp32", write=False)
    counted = (r"\d+ of 20 good parts rejected", r"\d+ of 20 defective parts missed")
    interval = r" \(\d+\.\d%, 95% interval \d+\.\d% to \d+\.\d%\)"
    for (name, words), count, end in zip(result.in_words().items(), counted, said, strict=True):
        assert re.fullmatch(count + interval + end, words)
        assert f"| {name} | {words} |" in as_markdown(result, "")


@pytest.mark.parametrize(
    ("rejected", "good", "said"),
    [
        (4, 49, "4 of 49 good parts rejected (8.2%, 95% interval 2.3% to 19.6%); promised 5%: within what 49 parts can show"),
        (1, 49, "1 of 49 good parts rejected (2.0%, 95% interval 0.1% to 10.9%); promised 5%: kept on these parts"),
        (
            9,
            49,
            "9 of 49 good parts rejected (18.4%, 95% interval 8.8% to 32.0%); promised 5%: exceeded by more than chance explains",
        ),
    ],
)
def test_a_rate_that_chance_explains_does_not_read_as_a_broken_promise(rejected: int, good: int, said: str) -> None:
    figures = {"backend": "", "threshold": 1.0, "defective": 10, "image_auroc": 1.0, "pixel_auroc": None, "miss_rate": 0.0}
    rates: dict[str, object] = {
        "good": good,
        "false_reject_rate": rejected / good,
        "promised_false_reject_rate": 0.05,
        "faults": 0,
        "kinds": {},
    }
    assert msgspec.convert({**figures, **rates}, Evaluation).in_words()["false-reject rate"] == said


def test_an_aimed_rate_is_not_called_promised() -> None:
    figures = {"backend": "", "threshold": 1.0, "defective": 10, "image_auroc": 1.0, "pixel_auroc": None, "miss_rate": 0.0}
    rates: dict[str, object] = {
        "good": 40,
        "false_reject_rate": 0.05,
        "promised_false_reject_rate": None,
        "faults": 0,
        "kinds": {},
    }
    result = msgspec.convert({**figures, **rates, "aimed_false_reject_rate": 0.02}, Evaluation)
    words = result.in_words()["false-reject rate"]
    assert words.endswith("; aimed at 2%: within what 40 parts can show")
    assert "promise" not in words


def test_the_report_goes_into_a_folder_and_leaves_the_bundle_alone(own_line: Line, tmp_path: Path) -> None:
    before = snapshot(own_line.bundle)
    with read_only(own_line.bundle):
        result, pictures = evaluate(Bundle.open(own_line.bundle), own_line.data, report=tmp_path / "new" / "report")
    assert snapshot(own_line.bundle) == before
    assert sorted(path.name for path in (tmp_path / "new" / "report").iterdir()) == [
        "evaluation-roc.png",
        "evaluation-sheet.png",
        "evaluation.json",
        "evaluation.md",
    ]
    assert all(picture.is_file() for picture in pictures)
    assert not any("cannot be written" in note for note in result.notes)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file cannot be written"):
        evaluate(Bundle.open(own_line.bundle), own_line.data, report=tmp_path / "file")


def test_the_figures_as_json(line: Line) -> None:
    options = ["evaluate", str(line.data), "--bundle", str(line.bundle), "--json", "--fp32"]
    with read_only(line.bundle):
        result = CliRunner().invoke(cli, options)
    assert result.exit_code == 0
    found = msgspec.json.decode(result.stdout, type=Evaluation)
    assert found.conclusion is not None
    assert found.good == 20
