"""Pictures of an evaluation: contact sheet and ROC curve."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.data.images import Frame, read_image, read_mask
from lrdan_edge.errors import DataError
from lrdan_edge.evaluation.figure import new_figure
from lrdan_edge.evaluation.result import AT_2_PERCENT, Evaluation, Judged
from lrdan_edge.metrics import COMPARED_RATE
from lrdan_edge.runtime.annotate import COLOURS, as_bgr, overlay, overlay_maximum

_CELL = 144
_CAPTION = 22
_COLUMNS = 8


def kinds_in_order(judged: list[Judged]) -> list[str]:
    """``good``, then the kinds of defects by name."""
    return sorted({one.image.kind for one in judged}, key=lambda kind: (kind != "good", kind))


def shown_on_sheet(judged: list[Judged]) -> list[int]:
    """Indices of the images on the contact sheet, at most `_COLUMNS` of a kind, from the hardest to the easiest.

    Good images are in descending, defective ones in ascending order of their score. Faults are left out.
    """
    shown: list[int] = []
    for kind in kinds_in_order(judged):
        part = [place for place, one in enumerate(judged) if one.image.kind == kind and one.verdict.outcome != "fault"]
        part.sort(key=lambda place: judged[place].score, reverse=kind == "good")
        spread = np.linspace(0, len(part) - 1, min(_COLUMNS, len(part))).round().astype(int)
        shown += [part[place] for place in spread]
    return shown


def contact_sheet(path: Path, shown: list[Judged], counts: dict[str, int], bit_depth: int = 16) -> None:
    """Write a PNG: per kind one row of images over one row of heatmap overlays, framed by verdict.

    Args:
        path: The file to write.
        shown: The images that `shown_on_sheet` chose, in its order, with verdicts and heatmaps.
        counts: How many images of each kind have a score, in the order of the rows.
        bit_depth: Bits used of 16-bit images.
    """
    rows = []
    for kind, count in counts.items():
        chosen = [one for one in shown if one.image.kind == kind]
        rows.append(_banner(f"{kind} ({count}): hardest on the left"))
        rows.append(_row([_cell(one, bit_depth, with_heatmap=False) for one in chosen]))
        rows.append(_row([_cell(one, bit_depth, with_heatmap=True) for one in chosen]))
    encoded, data = cv2.imencode(".png", np.vstack(rows))
    if not encoded:
        raise DataError(f"the contact sheet {path} cannot be encoded as PNG")
    path.write_bytes(data.tobytes())


def _cell(one: Judged, bit_depth: int, *, with_heatmap: bool) -> Frame:
    """One framed picture with a caption, uint8 [_CELL + _CAPTION, _CELL, 3]."""
    image = as_bgr(read_image(one.image.path, bit_depth))
    if with_heatmap and one.verdict.heatmap is not None:
        image = overlay(image, one.verdict.heatmap, overlay_maximum(one.verdict), one.verdict.region)
        if one.image.mask is not None:
            image = _outline(image, one.image.mask)
    scale = (_CELL - 8) / max(image.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=interpolation), np.uint8)
    cell = np.full((_CELL + _CAPTION, _CELL, 3), 255, np.uint8)
    cell[:_CELL] = COLOURS[one.verdict.outcome]
    top, left = (_CELL - image.shape[0]) // 2, (_CELL - image.shape[1]) // 2
    cell[top : top + image.shape[0], left : left + image.shape[1]] = image
    words = f"{one.verdict.outcome} {one.score:.3g}" if not with_heatmap else one.image.path.stem[-18:]
    return _write_text(cell, words, (4, _CELL + 15), 0.4)


def _outline(image: Frame, mask: Path) -> Frame:
    """Draw the defect's outline."""
    height, width = image.shape[:2]
    defective = read_mask(mask).astype(np.uint8)
    fitted = cv2.resize(defective, (width, height), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(fitted, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return np.asarray(cv2.drawContours(image, contours, -1, (255, 255, 0), 1), np.uint8)


def _row(cells: list[Frame]) -> Frame:
    blank = np.full((_CELL + _CAPTION, _CELL, 3), 255, np.uint8)
    return np.hstack([*cells, *[blank] * (_COLUMNS - len(cells))])


def _banner(words: str) -> Frame:
    return _write_text(np.full((26, _CELL * _COLUMNS, 3), 235, np.uint8), words, (6, 18), 0.5)


def _write_text(image: Frame, text: str, place: tuple[int, int], size: float) -> Frame:
    return np.asarray(cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, (40, 40, 40), 1, cv2.LINE_AA), np.uint8)


def roc(path: Path, curve: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], result: Evaluation) -> None:
    """Write the ROC curve as PNG, with the operating point, and with the recall at 2 % false rejects and its interval."""
    figure = new_figure(5, 5)
    axes = figure.subplots()
    axes.step(*curve, where="post", color="#1f77b4", label=f"AUROC {result.image_auroc:.4f}")
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle="--")
    if recall := result.recall_at_2_percent:
        axes.errorbar(
            COMPARED_RATE,
            recall.value,
            yerr=[[recall.value - recall.low], [recall.high - recall.value]],
            fmt="s",
            markersize=4,
            capsize=3,
            color="#2ca02c",
            label=f"{AT_2_PERCENT}: {recall.value:.1%} ({recall.low:.1%} to {recall.high:.1%})",
        )
    point = (result.false_reject_rate, 1 - result.miss_rate)
    axes.plot(
        *point, "o", color="#d62728", label=f"threshold {result.threshold:.3g}: {point[0]:.1%} rejected, {point[1]:.1%} found"
    )
    axes.set(xlabel="good parts rejected", ylabel="defective parts found", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(f"{result.good} good, {result.defective} defective, {result.backend}")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, format="png")
