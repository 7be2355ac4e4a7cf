"""The contact sheet: the hardest images of each kind, with what was decided about them in words."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from lrdan_edge.data.images import Frame, read_image, read_mask
from lrdan_edge.errors import DataError
from lrdan_edge.evaluation.result import Evaluation, Judged
from lrdan_edge.runtime.annotate import as_bgr, overlay, overlay_maximum

Judgement = Literal["accepted", "found", "MISSED", "FALSE REJECT"]

COLOURS: dict[Judgement, tuple[int, int, int]] = {
    "accepted": (80, 175, 76),
    "found": (80, 175, 76),
    "MISSED": (60, 60, 220),
    "FALSE REJECT": (0, 140, 255),
}
"""Frames by judgement, BGR: green where the verdict was right."""

COLUMNS = 8
_CELL = 144
_FRAME = 5
_LINE = 17
_CAPTION = 2 * _LINE + 6
_INK, _PAPER, _BANNER = (40, 40, 40), 255, 235
_OUTLINE = (255, 255, 0)
_MARGIN = 6


def judgement_of(one: Judged) -> Judgement:
    """What the verdict on a test image that has a score amounts to."""
    if one.image.defective:
        return "found" if one.verdict.outcome == "reject" else "MISSED"
    return "accepted" if one.verdict.outcome == "good" else "FALSE REJECT"


def kinds_in_order(judged: list[Judged]) -> list[str]:
    """``good``, then the kinds of defects by name."""
    return sorted({one.image.kind for one in judged}, key=lambda kind: (kind != "good", kind))


def shown_on_sheet(judged: list[Judged]) -> list[int]:
    """Indices of the images on the contact sheet, at most `COLUMNS` of a kind, from the hardest to the easiest.

    Good images are in descending, defective ones in ascending order of their score. Faults are left out.
    """
    shown: list[int] = []
    for kind in kinds_in_order(judged):
        part = [place for place, one in enumerate(judged) if one.image.kind == kind and one.verdict.outcome != "fault"]
        part.sort(key=lambda place: judged[place].score, reverse=kind == "good")
        spread = np.linspace(0, len(part) - 1, min(COLUMNS, len(part))).round().astype(int)
        shown += [part[place] for place in spread]
    return shown


def contact_sheet(path: Path, shown: list[Judged], judged: list[Judged], result: Evaluation, bit_depth: int = 16) -> None:
    """Write a PNG: title and legend, then per kind a row of images over a row of heatmap overlays, framed by what was decided.

    Args:
        path: The file to write.
        shown: The images that `shown_on_sheet` chose, in its order, with verdicts and heatmaps.
        judged: All test images with their verdicts.
        result: The figures.
        bit_depth: Bits used of 16-bit images.
    """
    rows = [_title(result), _legend()]
    for kind in kinds_in_order(judged):
        chosen = [one for one in shown if one.image.kind == kind]
        if chosen:
            rows.append(_banner(row_title(kind, judged)))
            rows.append(_row([_cell(one, bit_depth, with_heatmap=False) for one in chosen]))
            rows.append(_row([_cell(one, bit_depth, with_heatmap=True) for one in chosen]))
    encoded, data = cv2.imencode(".png", np.vstack(rows))
    if not encoded:
        raise DataError(f"the contact sheet {path} cannot be encoded as PNG")
    path.write_bytes(data.tobytes())


def row_title(kind: str, judged: list[Judged]) -> str:
    """A row's title: ``scratch: 18 of 20 found, 2 MISSED, 1 fault; hardest on the left``."""
    part = [one for one in judged if one.image.kind == kind]
    scored = [judgement_of(one) for one in part if one.verdict.outcome != "fault"]
    right: Judgement = "accepted" if kind == "good" else "found"
    wrong: Judgement = "FALSE REJECT" if kind == "good" else "MISSED"
    said = [f"{scored.count(right)} of {len(scored)} {right}", f"{scored.count(wrong)} {wrong}"]
    said += [f"{len(part) - len(scored)} without a score"] if len(part) > len(scored) else []
    return f"{kind}: {', '.join(said)}; hardest on the left"


def _title(result: Evaluation) -> Frame:
    words = f"Evaluation: {result.good} good and {result.defective} defective images, {result.backend}"
    return _write(np.full((34, _CELL * COLUMNS, 3), _PAPER, np.uint8), words, (_MARGIN, 24), 0.65, bold=True)


def _legend() -> Frame:
    """One swatch per judgement, and what the outline and the figures mean."""
    strip: Frame = np.full((2 * _LINE + 12, _CELL * COLUMNS, 3), _PAPER, np.uint8)
    left = _MARGIN
    entries: list[tuple[str, tuple[int, int, int]]] = [
        ("frame: accepted good part, found defect", COLOURS["found"]),
        ("MISSED defect", COLOURS["MISSED"]),
        ("FALSE REJECT of a good part", COLOURS["FALSE REJECT"]),
        ("outline in the lower row: where the defect is (mask)", _OUTLINE),
    ]
    for words, colour in entries:
        cv2.rectangle(strip, (left, 5), (left + 14, 16), colour, 3)
        strip = _write(strip, words, (left + 20, 16), 0.42)
        left += 20 + cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)[0][0] + 24
    words = "1.20 x = multiple of the threshold (1.00 x is the threshold, 0 the median good part); in brackets the score"
    return _write(strip, words, (_MARGIN, 16 + _LINE + 4), 0.42)


def _cell(one: Judged, bit_depth: int, *, with_heatmap: bool) -> Frame:
    """One framed picture with a caption, uint8 [_CELL + _CAPTION, _CELL, 3]."""
    image = as_bgr(read_image(one.image.path, bit_depth))
    if with_heatmap and one.verdict.heatmap is not None:
        image = overlay(image, one.verdict.heatmap, overlay_maximum(one.verdict), one.verdict.region)
    scale = (_CELL - 2 * _FRAME - 2) / max(image.shape[:2])
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)
    if with_heatmap and one.image.mask is not None:
        image = _outline(image, one.image.mask)
    judgement = judgement_of(one)
    cell: Frame = np.full((_CELL + _CAPTION, _CELL, 3), _PAPER, np.uint8)
    cell[:_CELL] = COLOURS[judgement]
    cell[_FRAME : _CELL - _FRAME, _FRAME : _CELL - _FRAME] = _BANNER
    top, left = (_CELL - height) // 2, (_CELL - width) // 2
    cell[top : top + height, left : left + width] = image
    if with_heatmap:
        return _write(cell, one.image.path.stem[-20:], (4, _CELL + _LINE), 0.38)
    wrong = judgement in ("MISSED", "FALSE REJECT")
    cell = _write(cell, judgement, (4, _CELL + _LINE), 0.45, bold=wrong, ink=COLOURS[judgement] if wrong else _INK)
    multiple = one.verdict.multiple
    shown = f"{one.score:.4g}" if multiple is None else f"{multiple:.2f} x  ({one.score:.4g})"
    return _write(cell, shown, (4, _CELL + 2 * _LINE), 0.4)


def _outline(image: Frame, mask: Path) -> Frame:
    """Draw the defect's outline."""
    height, width = image.shape[:2]
    defective = read_mask(mask).astype(np.uint8)
    fitted = cv2.resize(defective, (width, height), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(fitted, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return np.asarray(cv2.drawContours(image, contours, -1, _OUTLINE, 1), np.uint8)


def _row(cells: list[Frame]) -> Frame:
    blank = np.full((_CELL + _CAPTION, _CELL, 3), _PAPER, np.uint8)
    return np.hstack([*cells, *[blank] * (COLUMNS - len(cells))])


def _banner(words: str) -> Frame:
    return _write(np.full((26, _CELL * COLUMNS, 3), _BANNER, np.uint8), words, (_MARGIN, 18), 0.5)


def _write(
    image: Frame,
    text: str,
    place: tuple[int, int],
    size: float,
    *,
    bold: bool = False,
    ink: tuple[int, int, int] = _INK,
) -> Frame:
    """Write a line of text, smaller if it would not fit."""
    room = image.shape[1] - place[0] - 2
    width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1 + bold)[0][0]
    size *= min(1.0, room / max(1, width))
    return np.asarray(cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1 + bold, cv2.LINE_AA), np.uint8)
