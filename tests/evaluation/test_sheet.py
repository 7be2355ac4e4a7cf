"""The contact sheet says in words and in colours what was decided."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from parts import write

from lrdan_edge.data.dataset import LabelledImage
from lrdan_edge.evaluation.result import Evaluation, Judged
from lrdan_edge.evaluation.sheet import COLOURS, contact_sheet, judgement_of, row_title, shown_on_sheet
from lrdan_edge.runtime.verdict import Outcome, Verdict

RESULT = Evaluation(
    backend="onnxruntime fp32",
    threshold=1.0,
    promised_false_reject_rate=0.05,
    good=2,
    defective=3,
    image_auroc=0.9,
    pixel_auroc=None,
    false_reject_rate=0.5,
    miss_rate=0.5,
    faults=1,
    kinds={},
)


def judged(folder: Path, kind: str, outcome: Outcome, score: float | None, shape: tuple[int, int] = (40, 60)) -> Judged:
    path = write(folder / kind / f"{outcome}{score}.png", np.full(shape, 128, np.uint8))
    heat = np.zeros(shape, np.float32) if score is not None else None
    return Judged(LabelledImage(path, kind, None), Verdict(outcome, score, 1.0, 0.5, heat, typical=0.0))


@pytest.mark.parametrize(
    ("kind", "outcome", "words"),
    [
        ("good", "good", "accepted"),
        ("good", "reject", "FALSE REJECT"),
        ("scratch", "reject", "found"),
        ("scratch", "good", "MISSED"),
    ],
)
def test_a_wrong_verdict_is_never_green(tmp_path: Path, kind: str, outcome: Outcome, words: str) -> None:
    one = judged(tmp_path, kind, outcome, 0.5)
    assert judgement_of(one) == words
    assert (COLOURS[judgement_of(one)] == COLOURS["found"]) == (words in ("accepted", "found"))


def test_each_row_counts_what_it_shows(tmp_path: Path) -> None:
    parts = [
        judged(tmp_path, "good", "good", 0.1),
        judged(tmp_path, "good", "reject", 1.5),
        judged(tmp_path, "dent", "reject", 2.0),
        judged(tmp_path, "dent", "good", 0.4),
        judged(tmp_path, "dent", "fault", None),
    ]
    assert row_title("good", parts) == "good: 1 of 2 accepted, 1 FALSE REJECT; hardest on the left"
    assert row_title("dent", parts) == "dent: 1 of 2 found, 1 MISSED, 1 without a score; hardest on the left"
    path = tmp_path / "sheet.png"
    contact_sheet(path, [parts[place] for place in shown_on_sheet(parts)], parts, RESULT)
    sheet = cv2.imread(str(path))
    assert sheet is not None
    assert sheet.shape[1] == 8 * 144
    frames = {name: (sheet == colour).all(2).sum() for name, colour in COLOURS.items()}
    assert min(frames.values()) > 1000


@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1)])
def test_a_very_long_image_fits_into_its_cell(tmp_path: Path, shape: tuple[int, int]) -> None:
    parts = [judged(tmp_path, "good", "good", 0.1, shape), judged(tmp_path, "dent", "reject", 2.0, shape)]
    contact_sheet(tmp_path / "sheet.png", parts, parts, RESULT)
    assert (tmp_path / "sheet.png").is_file()
