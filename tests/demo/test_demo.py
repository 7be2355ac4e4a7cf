import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from lrdan_edge.cli import cli
from lrdan_edge.metrics import binomial_bound


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    result = CliRunner().invoke(cli, ["demo", "--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "is not empty and no earlier demo" in result.output
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    result = CliRunner().invoke(cli, ["demo", "--output", str(folder)])
    assert result.exit_code == 0, result.output
    figures = json.loads((folder / "demo.json").read_text())
    assert figures["image_auroc"] >= 0.95
    assert abs(figures["image_auroc"] - figures["int8_image_auroc"]) <= 0.01
    false_rejects = round(figures["false_reject_rate"] * figures["good_frames"])
    assert false_rejects <= binomial_bound(figures["good_frames"], figures["promised_false_reject_rate"])
    assert figures["defects"] >= 20
    assert figures["missed_defects"] <= figures["defects"] // 10
    for picture in ("evaluation-sheet.png", "evaluation-roc.png", "benchmark.png", "training.png"):
        assert (folder / "bundle" / "reports" / picture).stat().st_size > 10_000
    assert len(list((folder / "run" / "frames").iterdir())) == len((folder / "run" / "verdicts.jsonl").read_text().splitlines())
