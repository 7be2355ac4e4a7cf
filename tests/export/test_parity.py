"""Parity: the numbers against scikit-learn and arithmetic by hand, the bounds, and what an export does when one breaks."""

import sys

import numpy as np
import pytest
from parts import Line
from sklearn.metrics import roc_auc_score

from lrdan_edge.backends.base import largest_batch
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import from_json
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.errors import ExportError
from lrdan_edge.export.parity import SCORE_BOUND, ParityReport, as_markdown, compare
from lrdan_edge.metrics import relative_differences


def test_differences_are_relative_to_the_score_the_median_or_the_unit() -> None:
    expected = np.array([0.01, 4.0, 4.0, 40.0], np.float32)
    actual = expected + np.array([0.4, -0.4, 0, 4], np.float32)
    np.testing.assert_allclose(relative_differences(actual, expected), [0.1, 0.1, 0, 0.1], rtol=1e-5)
    np.testing.assert_allclose(relative_differences(actual, expected, 8.0), [0.05, 0.05, 0, 0.1], rtol=1e-5)


def test_parity_numbers_match_their_definition() -> None:
    rng = np.random.default_rng(0)
    expected, heat = rng.normal(3, 1, 50).astype(np.float32), rng.normal(0, 1, (50, 4, 5)).astype(np.float32)
    actual, other = expected + rng.normal(0, 0.5, 50).astype(np.float32), heat + np.float32(0.25)
    defective = rng.random(50) < 0.4
    found = compare("int8", "somebody", (actual, other), (expected, heat), unit=1.0, defective=defective)
    areas = roc_auc_score(defective, actual), roc_auc_score(defective, expected)
    assert found.auroc == pytest.approx(areas[0])
    assert found.auroc_difference == pytest.approx(abs(areas[0] - areas[1]))
    assert found.heatmap_max == pytest.approx(0.25, abs=1e-6)
    assert found.heatmap_mean == pytest.approx(0.25, abs=1e-6)
    assert found.score_mean <= found.score_max
    assert compare("int8", "x", (actual, None), (expected, None), unit=1.0, defective=None).auroc is None


@pytest.mark.parametrize(("precision", "off", "broken"), [("fp32", 2e-4, True), ("fp16", 2e-4, False), ("fp16", 6e-3, True)])
def test_a_bound_breaks_or_holds(precision: Precision, off: float, broken: bool) -> None:
    expected = np.full(4, 10, np.float32)
    actual = expected * np.float32(1 + off)
    found = compare(precision, "x", (actual, None), (expected, None), unit=0.0)
    assert bool(found.broken()) is broken


def test_a_nan_breaks_every_bound() -> None:
    expected = np.full(4, 10, np.float32)
    found = compare("fp16", "x", (expected * np.float32("nan"), None), (expected, None), unit=0.0, defective=[True, False] * 2)
    assert len(found.broken()) >= 1


def test_an_export_beyond_a_bound_changes_nothing(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from fewer_exports import export_one_graph

    from lrdan_edge.export.graph import export

    export_one_graph(monkeypatch)
    before = (own_bundle.path / "manifest.json").read_bytes()
    monkeypatch.setitem(SCORE_BOUND, "fp16", 1e-9)
    with pytest.raises(ExportError, match=r"the fp16 graph run by onnxruntime .* scores differ by .* \(bound 1e-09\)"):
        export(own_bundle, frame_size=(64, 64))
    assert (own_bundle.path / "manifest.json").read_bytes() == before
    assert own_bundle.manifest.model.geometry is None


def test_without_openvino_the_report_names_it(own_bundle: Bundle, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from fewer_exports import export_as_before

    from lrdan_edge.export.graph import export

    export_as_before(own_bundle, monkeypatch)
    monkeypatch.setitem(sys.modules, "openvino", None)
    export(own_bundle)
    path = own_bundle.file("reports/parity.json", "lrdan-edge export")
    report = from_json(path.read_bytes(), ParityReport, str(path))
    assert [row.runner.split()[0] for row in report.rows] == ["onnxruntime", "onnxruntime"]
    assert "pip install 'lrdan-edge[openvino]'" in report.not_measured[0]
    assert "good and" in report.images
    assert report.rows[0].images == 48 + 20 + 20
    assert (line.data / "test").is_dir()
    assert as_markdown(report) == own_bundle.file("reports/parity.md", "lrdan-edge export").read_text()


def test_memory_is_bounded_by_the_heatmap() -> None:
    assert largest_batch((256, 256)) == largest_batch((28, 28)) == 64
    assert largest_batch((512, 512)) == 16
    assert largest_batch((2048, 2448)) == 1
