"""A bundle that version 0.1.0 wrote opens, proves itself and goes on through the stages of a device."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from earlier import unpack

from lrdan_edge import Bundle, Inspector
from lrdan_edge.bundle.spec import PRECISIONS, Precision
from lrdan_edge.bundle.verify import verify_bundle
from lrdan_edge.cli.main import cli
from lrdan_edge.data.images import read_image
from lrdan_edge.engines.build import BuildRequest, build_engine


@pytest.fixture
def earlier(tmp_path: Path) -> Bundle:
    return Bundle.open(unpack(tmp_path))


def test_an_earlier_bundle_is_complete_and_not_stale(earlier: Bundle) -> None:
    assert earlier.manifest.written_by == "lrdan-edge 0.1.0"
    assert verify_bundle(earlier).passed
    shown = CliRunner().invoke(cli, ["info", "-b", str(earlier.path)], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize(("backend", "precision"), [*(("onnxruntime", one) for one in PRECISIONS), ("torch", "fp32")])
def test_graphs_and_weights_of_an_earlier_bundle_score_as_before(earlier: Bundle, backend: str, precision: Precision) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    stored = json.loads((earlier.path / "golden" / "scores.json").read_text())
    frames = [read_image(earlier.path / "golden" / name) for name in stored["images"]]
    with Inspector.open(earlier, backend=backend, precision=precision) as inspector:
        verdicts = inspector.inspect(frames)
    np.testing.assert_allclose(verdicts.scores, stored["scores"][precision], rtol=5e-3)
    assert {one.outcome for one in verdicts} == {"good"}


def test_engines_are_built_from_an_earlier_bundle(earlier: Bundle) -> None:
    name = build_engine(earlier, BuildRequest("fp32", "onnxruntime"))
    shown = CliRunner().invoke(cli, ["engine", "verify", name, "-b", str(earlier.path)], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
