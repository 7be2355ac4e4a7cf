"""A detector that finds nothing is called useless in words, and the next step is not to deploy it."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from parts import good_image, write

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.cli.main import cli
from lrdan_edge.evaluation.usefulness import too_weak
from lrdan_edge.metrics import recall_of


def record(area: float, found: int, *, labelled: bool = False) -> dict[str, object]:
    return {"labelled": labelled, "auroc_fp32": area, "painted_recall": msgspec.to_builtins(recall_of(found, 100))}


@pytest.mark.parametrize(
    ("labelled", "int8", "said"),
    [
        (None, None, ""),
        (None, record(0.95, 60), ""),
        (
            None,
            record(0.51, 2),
            "it finds 2.0% of the painted defects at its threshold, and its AUROC on painted defects is 0.51",
        ),
        (None, record(0.9, 3), "3.0% of the painted defects"),
        (95, None, ""),
        (95, record(0.97, 3, labelled=True), ""),
        (12, None, "it finds 12.0% of the labelled defects at its threshold"),
        (12, record(0.6, 90, labelled=True), "its AUROC on labelled defects is 0.60, where 0.5 is chance"),
    ],
)
def test_too_few_defects_found_are_said_in_words(labelled: int | None, int8: dict[str, object] | None, said: str) -> None:
    recall = {} if labelled is None else {"fp32": msgspec.to_builtins(recall_of(labelled, 100))}
    found = too_weak(recall, int8)
    assert said in found
    assert bool(found) is bool(said)


def test_the_next_step_for_a_useless_detector_is_not_an_engine(own_bundle: Bundle, tmp_path: Path) -> None:
    """Good parts given as defects: nothing tells them apart."""
    rng = np.random.default_rng(5)
    for index in range(20):
        write(tmp_path / "NG" / f"{index}.png", good_image(rng))
    options = ["--false-reject-rate", "0.05", "--no-int8", "--bundle", str(own_bundle.path)]
    result = CliRunner().invoke(cli, ["calibrate", *options, "--defects", str(tmp_path / "NG")])
    assert result.exit_code == 0, result.output
    assert "Warning: this detector is too weak to use" in result.output
    assert "build-engine" not in result.output
    assert "more good images" in result.output
    assert "--image-size larger than 32x32" in result.output
    assert "build-engine" in CliRunner().invoke(cli, ["calibrate", *options]).output
