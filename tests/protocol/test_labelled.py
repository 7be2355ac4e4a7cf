"""Labelled anomalies in the protocol: which they are, who gets them, and that the table says so."""

import json
from pathlib import Path

import numpy as np
import pytest

from lrdan_edge.errors import DataError
from lrdan_edge.protocol import columns
from lrdan_edge.protocol.protocol import ProtocolOptions, draw_labelled, run_protocol
from lrdan_edge.protocol.readers import read_dataset


def test_nine_seeds_use_each_other_class_once(tiny: Path) -> None:
    train = read_dataset("mnist", tiny).train
    seen = []
    for seed in range(9):
        drawn = draw_labelled(train, 3, seed, 0.2, 20)
        assert drawn is not None
        assert len(drawn) == 5  # 5 of 25 are a fifth
        (label,) = {int(train.labels[np.flatnonzero((train.frames == frame).all((1, 2, 3)))[0]]) for frame in drawn.numpy()}
        seen.append(label)
    assert sorted(seen) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert draw_labelled(train, 3, 0, 0.0, 20) is None


def test_the_table_marks_labelled_detectors_and_others_get_no_labels(tiny: Path, tmp_path: Path) -> None:
    dataset = read_dataset("mnist", tiny)
    study = columns.of_detectors(("deep-svdd", "deep-sad", "restoration-known"), 0.1)
    options = ProtocolOptions(classes=("4",), steps=2)
    written = run_protocol(dataset, study, tmp_path, options, processor="p")
    labelled = [entry.images.get("labelled") for entry in written.results.entries]
    assert labelled == [None, 2, 2]
    page = written.markdown.read_text()
    assert "| deep-sad (semi-supervised, 0.1) |" in page
    assert "cannot be compared" in page
    assert "--labelled-ratio 0.1" in page
    assert json.loads(written.json.read_text())["recipes"]["deep-sad (semi-supervised, 0.1)"].startswith("semi-supervised")


def test_the_labelled_ratio_is_checked_and_other_detectors_need_none(tiny: Path) -> None:
    assert columns.of_detectors(("deep-svdd",)).remark == ""
    renamed = columns.of_detectors(("inspection", "inspection-known"), 0.1)
    assert list(renamed.columns) == ["restoration", "restoration-known (semi-supervised, 0.1)"]
    with pytest.raises(DataError, match="must be between 0 and 1, got 1"):
        columns.of_detectors(("deep-sad",), 1.0)
    with pytest.raises(DataError, match=r"choose from .*deep-sad"):
        columns.of_detectors(("deep-sod",))
    assert read_dataset("mnist", tiny).classes
