import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from lrdan_edge.cli.demo import DemoResult, Tally, count
from lrdan_edge.cli.main import cli
from lrdan_edge.demo.conveyor import BeltFrame
from lrdan_edge.metrics import binomial_bound

BELT = [
    BeltFrame(0, "good", None, 0),
    BeltFrame(1, "boundary", None, 9),
    BeltFrame(2, "scratch", 0, 90),
    BeltFrame(3, "scratch", 0, 90),
    BeltFrame(4, "hole", 1, 80),
    BeltFrame(5, "good", None, 0),
]


@pytest.mark.parametrize(
    ("outcomes", "false_rejects", "missed_frames", "missed_defects"),
    [
        ("good good reject reject reject good", 0, 0, 0),
        ("good reject good reject reject good", 0, 1, 0),  # the defect is found, and one of its frames went by
        ("reject good good good reject good", 1, 2, 1),
        ("good reject reject reject good reject", 1, 1, 1),  # a frame that shows a part of a defect finds none
        ("fault good fault fault fault fault", 0, 3, 2),  # a fault rejects nothing
    ],
)
def test_a_found_defect_does_not_hide_its_missed_frames(
    outcomes: str, false_rejects: int, missed_frames: int, missed_defects: int
) -> None:
    assert count(BELT, 2, outcomes.split()) == Tally(2, false_rejects, 3, missed_frames, missed_defects)


def test_rates_are_shown_with_their_counts() -> None:
    result = DemoResult(
        image_auroc=0.99,
        int8_image_auroc=0.99,
        pixel_auroc=None,
        false_reject_rate=3 / 469,
        promised_false_reject_rate=0.02,
        false_rejects_explained=18,
        good_frames=469,
        defective_frames=193,
        missed_frames=7,
        defects=24,
        missed_defects=0,
        seconds=100.0,
        speedup_over_eager=2.0,
        fastest="openvino fp32",
    )
    assert result.recalls_in_words() == {}
    recall = {"value": 0.9, "low": 0.8, "high": 0.95}
    shown = msgspec.structs.replace(result, recall=recall, recall_at_2_percent=recall).recalls_in_words()
    assert shown == {
        "recall at the threshold, fp32": "90.0% (95% interval 80.0% to 95.0%)",
        "recall at 2% false rejects, fp32": "90.0% (95% interval 80.0% to 95.0%)",
    }
    assert result.missed_in_words() == "7 of 193 (3.6%)"
    assert result.false_rejects_in_words() == "3 of 469 (0.6%, promised 2.0%)"


def test_a_folder_that_is_not_a_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    result = CliRunner().invoke(cli, ["demo", "--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "is not empty and does not hold an earlier demo: choose another --output" in result.output
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_keeps_its_promised_rates(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    result = CliRunner().invoke(cli, ["demo", "--output", str(folder)])
    assert result.exit_code == 0, result.output
    figures = json.loads((folder / "demo.json").read_text())
    assert figures["image_auroc"] >= 0.95
    assert abs(figures["image_auroc"] - figures["int8_image_auroc"]) <= 0.01
    false_rejects = round(figures["false_reject_rate"] * figures["good_frames"])
    assert false_rejects <= binomial_bound(figures["good_frames"], figures["promised_false_reject_rate"])
    assert figures["recall"]["low"] <= figures["recall"]["value"] <= figures["recall"]["high"]
    assert figures["recall_at_2_percent"]["value"] >= 0.8
    assert figures["defects"] >= 20
    assert figures["missed_defects"] <= figures["defects"] // 10
    assert figures["defective_frames"] >= 150
    assert figures["missed_frames"] <= figures["defective_frames"] // 10
    for picture in ("evaluation-sheet.png", "evaluation-roc.png", "benchmark.png", "training.png"):
        assert (folder / "bundle" / "reports" / picture).stat().st_size > 10_000
    verdicts = [json.loads(line) for line in (folder / "run" / "verdicts.jsonl").read_text().splitlines()]
    assert len(list((folder / "run" / "frames").iterdir())) == sum(one["outcome"] != "good" for one in verdicts)
