"""The training report: what is written can be read again, and what is drawn has a panel for each loss."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lrdan_edge.train.report import draw_losses, write_losses


def test_losses_are_read_as_they_were_written(tmp_path: Path) -> None:
    epochs = [{"total": 1 / 3, "irec": 2e-9}, {"total": 0.25, "irec": 1e6}]
    write_losses(tmp_path / "training.json", epochs)
    assert json.loads((tmp_path / "training.json").read_text()) == {"epochs": epochs}


@pytest.mark.parametrize(("terms", "columns", "rows"), [(1, 2, 1), (4, 2, 2), (5, 3, 2), (9, 3, 3)])
@pytest.mark.parametrize("epochs", [1, 3])
def test_every_loss_has_a_panel_with_its_curve(tmp_path: Path, terms: int, columns: int, rows: int, epochs: int) -> None:
    names = [f"loss{number}" for number in range(terms)]
    curve = [dict.fromkeys(names, 1.0 / (epoch + 1)) | {"spread_ae2": 0.1} for epoch in range(epochs)]
    draw_losses(tmp_path / "training.png", curve)
    picture = cv2.imread(str(tmp_path / "training.png"))
    assert picture is not None
    assert picture.shape == (240 * rows, 300 * columns, 3)
    panels = [panel for row in np.split(picture, rows) for panel in np.split(row, columns, axis=1)]
    coloured = [int((np.ptp(panel.astype(int), axis=2) > 60).sum()) for panel in panels]  # axes and titles are black and grey
    assert all(count > 10 for count in coloured[:terms])
    assert all(count <= 10 for count in coloured[terms:]), "a spread is not a loss"
