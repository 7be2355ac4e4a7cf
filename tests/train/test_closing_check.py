"""The figure at the end of a training, and what it says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from parts import Line, good_image, rewrite_manifest, write
from torch import Tensor, nn

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.spec import Preprocessing, Scoring
from lrdan_edge.bundle.view import Geometry
from lrdan_edge.cli.main import cli
from lrdan_edge.train.closing_check import DeployedScorer, closing_check, still_falling

PREPROCESSING = Preprocessing(colour="grey", resize="area", scale=1.0, offset=0.0)
SCORING = Scoring(normalise=False, smoothing_sigma=0.0, pooling="max")


class Network(nn.Module):
    """Marks what is brighter or darker than the stripes of `good_image`, or nothing."""

    def __init__(self, *, blind: bool) -> None:
        super().__init__()
        self.blind, self.weight = blind, nn.Parameter(torch.zeros(1))

    def anomaly_map(self, x: Tensor, _: str) -> Tensor:
        return x[:, :1] * 0 if self.blind else (x.mean(1, keepdim=True) - 110).abs()


def checked(blind: bool, geometry: Geometry | None = None) -> dict[str, Any]:
    from specs import spec_for

    rng = np.random.default_rng(0)
    import msgspec

    spec = msgspec.structs.replace(spec_for(32, 32, 1), geometry=geometry)
    tiles = len(spec.tile_rows) * len(spec.tile_columns)
    frames = torch.from_numpy(np.stack([good_image(rng) for _ in range(20 * tiles)]))[:, None]
    constants = (torch.zeros(spec.heatmap_shape), torch.ones(spec.heatmap_shape))
    network: Any = Network(blind=blind)
    return closing_check(DeployedScorer(network, constants, PREPROCESSING, SCORING, spec), frames, [])


def test_a_detector_that_sees_painted_defects() -> None:
    found = checked(blind=False)
    assert found["painted_auroc"] > 0.7
    assert (found["painted_images"], found["too_weak"]) == (20, "")


def test_a_blind_detector() -> None:
    found = checked(blind=True)
    assert found["painted_auroc"] == 0.5
    assert "cannot tell painted defects from good parts: its AUROC on painted defects is 0.50" in found["too_weak"]


def test_tiles_of_a_file_count_as_one() -> None:
    geometry = Geometry(frame=(32, 48), region=(0, 0, 48, 32), canvas=(32, 48), tiles=(1, 2))
    assert checked(blind=False, geometry=geometry)["painted_images"] == 20


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        ([5.0, 1.0], None),  # too few epochs to tell
        ([5.0, 3.0, 2.0, 1.5], True),
        ([5.0, 1.1, 1.05, 1.0], False),
        ([1.0, 1.0, 1.0, 1.2], False),
        ([4.0] * 8 + [3.0] * 4 + [2.0] * 4, True),
    ],
)
def test_whether_the_loss_still_falls(total: list[float], expected: bool | None) -> None:
    assert still_falling([{"total": loss} for loss in total]) is expected
    assert still_falling([{"total": loss, "adv": 1.0} for loss in total]) is None


def test_training_ends_with_the_figure_and_names_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    for index in range(20):
        write(tmp_path / "data" / f"{index}.png", good_image(rng))
    options = ["train", str(tmp_path / "data"), "--recipe", "restoration", "--epochs", "2", "--group-by", "none"]
    monkeypatch.setattr("lrdan_edge.train.closing_check.LEAST_AUROC", 0.0)
    fine = CliRunner().invoke(cli, [*options, "--bundle", str(tmp_path / "fine")])
    assert "Painted defects score higher than held-out good images with a probability of " in fine.output
    assert "Next: lrdan-edge export" in fine.output
    monkeypatch.setattr("lrdan_edge.train.closing_check.LEAST_AUROC", 1.1)
    weak = CliRunner().invoke(cli, [*options, "--bundle", str(tmp_path / "weak")])
    assert weak.exit_code == 0
    assert "Warning: this detector cannot tell painted defects from good parts" in weak.output
    assert "Next: train again with --epochs " in weak.output
    assert "lrdan-edge export" not in weak.output
    results = Bundle.open(tmp_path / "weak").manifest.stages["train"].results
    assert results["closing_check_seconds"] < 60
    assert results["usual_steps"] > results["steps"]


def test_a_run_warns_once_of_a_weak_detector(own_line: Line, line: Line) -> None:
    arguments = ["run", str(line.data / "test" / "good"), "--bundle", str(own_line.bundle), "--backend", "onnxruntime"]
    for sentence in ("", "this detector is too weak to use"):

        def record(fields: dict[str, Any], sentence: str = sentence) -> None:
            fields["stages"]["calibrate"]["results"]["too_weak"] = sentence

        rewrite_manifest(own_line.bundle, record)
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0
        assert result.output.count("Warning") == bool(sentence)
        assert result.output.count("Warning: this detector is too weak to use") == bool(sentence)
