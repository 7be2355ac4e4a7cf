"""The evaluate stage: how well the selected graph or engine separates good from defective parts."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.names import DECISION, ENGINES, REPORTS, engine_decision_name, graph_name
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.bundle.view import RegionFractions
from lrdan_edge.data.check import evaluation_notes
from lrdan_edge.data.dataset import LabelledImage, recorded_images, test_images
from lrdan_edge.data.images import crop_region, fit_frame, read_mask, read_with_form
from lrdan_edge.engines.select import BackendChoice
from lrdan_edge.errors import DataError
from lrdan_edge.evaluation import plots
from lrdan_edge.evaluation.conclusion import conclude
from lrdan_edge.evaluation.figure import matplotlib_found
from lrdan_edge.evaluation.result import AT_2_PERCENT, Evaluation, Judged, kind_figures, kind_recall
from lrdan_edge.evaluation.sheet import contact_sheet, shown_on_sheet
from lrdan_edge.metrics import PixelAuroc, auroc, recall_at, recall_of, roc_curve
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.unlike import UnlikeCounts
from lrdan_edge.runtime.verdict import Verdict

_BATCH = 16

Progress = Callable[[str, float], None]


def evaluate(
    bundle: Bundle,
    data: Path,
    *,
    backend: str = "auto",
    precision: Precision | None = None,
    write: bool = True,
    report: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, list[Path]]:
    """Judge every test image of `data` and write the figures, a ROC plot and a contact sheet into ``reports/``.

    Args:
        bundle: A calibrated bundle.
        data: A folder with ``test/good``, ``test/<defect>`` and optionally ``ground_truth/<defect>``.
        backend: See `Inspector.open`.
        precision: See `Inspector.open`.
        write: Whether to write the figures and pictures into the bundle. If it is read-only, a note says so.
        report: A folder for the figures and pictures instead of the bundle, which is then not changed; made if it does not exist.
        progress: Called with the current step and the fraction of it that is done, 0 to 1.

    Returns:
        The evaluation, and the pictures written.

    Raises:
        DataError: The folder has no good or no defective test images, an image cannot be read, or `report` cannot be written.
    """
    report_progress = progress or (lambda *_: None)
    images = _unseen(bundle, data, test_images(data))
    known = bundle.recorded("train", "known_defects", list[str], [])
    notes = evaluation_notes(data, images, recorded_images(bundle, "training"), known)
    if write and report is None and not bundle.writable:
        write, notes = False, [*notes, f"{bundle.path} cannot be written, so the figures are not kept in it"]
    switch: dict[str, bool] = {precision: True} if precision else {}
    command = str(Command("evaluate", data, backend=None if backend == "auto" else backend, **switch))
    options = {"data": str(data), "backend": backend, "precision": precision}
    with Inspector.open(bundle, backend=backend, precision=precision) as inspector:
        if report is not None:
            return _into_folder(report, inspector, images, notes, command, report_progress)
        if not write:
            return _judge(inspector, images, notes, report_progress)[0], []
        inputs = _measured(bundle, inspector.choice)
        with bundle.stage("evaluate", command=command, inputs=inputs, options=options) as stage:
            result, judged = _judge(inspector, images, notes, report_progress)
            pictures = _write(stage.path, result, judged, _shown(inspector, judged), command, inspector.bit_depth)
            stage.results = _figures(result)
    return result, [bundle.path / picture for picture in pictures]


def _into_folder(
    folder: Path, inspector: Inspector, images: list[LabelledImage], notes: list[str], command: str, progress: Progress
) -> tuple[Evaluation, list[Path]]:
    """Judge, and write the report into a folder of the user's; see `evaluate`."""

    def place(name: str) -> Path:
        return folder / Path(name).name

    try:
        folder.mkdir(parents=True, exist_ok=True)
        result, judged = _judge(inspector, images, notes, progress)
        pictures = _write(place, result, judged, _shown(inspector, judged), command, inspector.bit_depth)
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror})", "choose another {report}") from error
    return result, [place(picture) for picture in pictures]


def _shown(inspector: Inspector, judged: list[Judged]) -> list[Judged]:
    """The images of the contact sheet, judged again with their heatmaps."""
    drawn = [judged[place].image for place in shown_on_sheet(judged)]
    return [Judged(image, verdict) for image, verdict in _inspected(inspector, drawn)]


def _unseen(bundle: Bundle, data: Path, images: list[LabelledImage]) -> list[LabelledImage]:
    """The images of a folder without ``test`` that training did not use; raises DataError if no good one is left."""
    if (data / "test").is_dir():
        return images
    used = {path.resolve() for part in ("training", "held_out") for path in recorded_images(bundle, part)}
    left = [image for image in images if image.path.resolve() not in used]
    if all(image.defective for image in left):
        raise DataError(
            f"training used every good image of {data}, so there is none to measure false rejects with",
            "put some good and the defective parts aside, into {good} and {defects}, then train again",
            good=data / "test" / "good",
            defects=data / "test" / "defect",
        )
    return left


def _measured(bundle: Bundle, choice: BackendChoice) -> dict[str, Path]:
    """The inputs of the figures, by name: the selected graph or engine, and its decision."""
    names = [DECISION, f"{ENGINES}/{choice.engine}" if choice.engine else graph_name(choice.precision)]
    if choice.engine and bundle.engine_decision(choice.engine):
        names.append(engine_decision_name(choice.engine))
    return {name: bundle.path / name for name in names}


def _inspected(
    inspector: Inspector, images: list[LabelledImage], counts: UnlikeCounts | None = None
) -> Iterator[tuple[LabelledImage, Verdict]]:
    """Every image with its verdict; images unlike the training images are counted in `counts`."""
    shape, counts = inspector.backend.spec.frame_shape, counts or UnlikeCounts()
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        frames, wrong = [], []
        for image in part:
            frame, form = read_with_form(image.path, inspector.bit_depth)
            frames.append(fit_frame(frame, shape))
            wrong.append(counts.add(inspector.frame_check.check(form)))
        for image, verdict, reason in zip(part, inspector.inspect(frames), wrong, strict=True):
            yield image, verdict if reason is None else inspector.thresholder.fault(reason)


def _judge(
    inspector: Inspector, images: list[LabelledImage], notes: list[str], progress: Progress
) -> tuple[Evaluation, list[Judged]]:
    """The figures, and every image with its verdict but without its heatmap, to save memory."""
    pixels = PixelAuroc()
    judged: list[Judged] = []
    counts = UnlikeCounts()
    for image, verdict in _inspected(inspector, images, counts):
        if verdict.heatmap is not None and (image.mask or not image.defective):
            pixels.add(verdict.heatmap, mask_of(image, verdict.heatmap, verdict.region))
        judged.append(Judged(image, replace(verdict, heatmap=None)))
        progress("judging", len(judged) / len(images))
    masks = any(image.mask for image in images)
    result = _summarise(judged, inspector, pixels.value() if masks else None)
    return msgspec.structs.replace(result, notes=[*notes, *counts.notes()]), judged


def mask_of(image: LabelledImage, heatmap: npt.NDArray[np.float32], region: RegionFractions | None) -> npt.NDArray[np.bool_]:
    """The mask of the defect in the region, bool, at the heatmap's resolution; a pixel is defective if any part of it is."""
    if image.mask is None:
        return np.zeros(heatmap.shape, np.bool_)
    height, width = heatmap.shape
    fraction = cv2.resize(
        crop_region(read_mask(image.mask), region).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
    )
    return np.asarray(fraction > 0, np.bool_)


def _summarise(judged: list[Judged], inspector: Inspector, pixel_auroc: float | None) -> Evaluation:
    decision = inspector.thresholder.decision
    scored = [one for one in judged if one.verdict.outcome != "fault"]
    good = [one for one in scored if not one.image.defective]
    bad = [one for one in scored if one.image.defective]
    if not good or not bad:
        raise DataError(
            f"{len(judged) - len(scored)} of {len(judged)} test images are faults: nothing is left to compare",
            "check the images",
        )
    low, high = [one.score for one in good], [one.score for one in bad]
    kinds = {}
    for kind in sorted({one.image.kind for one in bad}):
        part = [one for one in bad if one.image.kind == kind]
        scores, missed = [one.score for one in part], sum(one.verdict.outcome == "good" for one in part)
        kinds[kind] = kind_figures(low, scores, auroc(low, scores), missed)
    rejected = sum(one.verdict.outcome == "reject" for one in good)
    missed = sum(one.verdict.outcome == "good" for one in bad)
    return Evaluation(
        backend=inspector.choice.title,
        threshold=scored[0].verdict.threshold,
        promised_false_reject_rate=decision.false_reject_rate if decision.rule == "conformal" else None,
        aimed_false_reject_rate=decision.false_reject_rate if decision.rule == "cross-fitted" else None,
        promised_miss_rate=None if decision.recall is None or decision.rule != "recall" else 1 - decision.recall,
        good=len(good),
        defective=len(bad),
        image_auroc=auroc(low, high),
        pixel_auroc=pixel_auroc,
        false_reject_rate=rejected / len(good),
        miss_rate=missed / len(bad),
        faults=len(judged) - len(scored),
        kinds=kinds,
        recall=recall_of(len(bad) - missed, len(bad)),
        recall_at_2_percent=recall_at(low, high),
        conclusion=conclude(
            inspector.bundle,
            recall_of(rejected, len(good)),
            recall_of(missed, len(bad)),
            decision.false_reject_rate if decision.rule in ("conformal", "cross-fitted") else None,
        ),
    )


def _write(
    place: Callable[[str], Path],
    result: Evaluation,
    judged: list[Judged],
    shown: list[Judged],
    command: str,
    bit_depth: int,
) -> list[str]:
    """Write figures and pictures, `shown` on the contact sheet; returns the names of the pictures in a bundle."""
    pictures = [f"{REPORTS}/evaluation-sheet.png"]
    place(f"{REPORTS}/evaluation.json").write_bytes(to_json(result))
    place(f"{REPORTS}/evaluation.md").write_text(as_markdown(result, command), encoding="utf-8")
    contact_sheet(place(pictures[0]), shown, judged, result, bit_depth)
    if matplotlib_found():
        pictures.append(f"{REPORTS}/evaluation-roc.png")
        scored = [one for one in judged if one.verdict.outcome != "fault"]
        curve = roc_curve(*([one.score for one in scored if one.image.defective is defective] for defective in (False, True)))
        plots.roc(place(pictures[1]), curve, result)
    return pictures


def _figures(result: Evaluation) -> dict[str, Any]:
    """The figures for the manifest."""
    recalls = {name: msgspec.to_builtins(getattr(result, name)) for name in ("recall", "recall_at_2_percent")}
    found = {"image_auroc": result.image_auroc, "pixel_auroc": result.pixel_auroc, "backend": result.backend}
    conclusion = {"use": result.conclusion.use} if result.conclusion else {}
    return found | recalls | conclusion | {"notes": result.notes}


def as_markdown(result: Evaluation, command: str) -> str:
    """The evaluation as a page."""
    pixel = "no masks" if result.pixel_auroc is None else f"{result.pixel_auroc:.4f}"
    lines = [
        "# Evaluation",
        "",
        f"`{command}`, by {result.backend}: {result.good} good, {result.defective} defective images, {result.faults} faults.",
        "",
        "| figure | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in result.recalls_in_words().items()),
        f"| image AUROC | {result.image_auroc:.4f} |",
        f"| pixel AUROC | {pixel} |",
        *(f"| {name} | {value} |" for name, value in result.in_words().items()),
        f"| threshold | {result.threshold:.6g} |",
        "",
        f"| defect | images | recall at the threshold | {AT_2_PERCENT} | image AUROC | miss rate |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in kind_rows(result)]
    if result.conclusion:
        lines += ["", *(f"- {sentence}" for sentence in result.conclusion.in_words())]
        if advice := result.conclusion.advice:
            lines.append(f"- What would help most: {advice.measure} ({advice.why}).")
    if result.notes:
        lines += ["", "Before you believe these figures:", "", *(f"- {note}" for note in result.notes)]
    return "\n".join(lines) + "\n"


def kind_rows(result: Evaluation) -> list[list[str]]:
    """The table of defect kinds: kind, images, recall at the threshold, recall at 2 % false rejects, AUROC, miss rate."""
    rows = []
    for kind, figures in result.kinds.items():
        recalls = (kind_recall(figures, name) for name in ("recall", "recall_at_2_percent"))
        shown = [recall.in_short() if recall else "" for recall in recalls]
        rows.append([kind, f"{figures['images']:.0f}", *shown, f"{figures['image_auroc']:.4f}", f"{figures['miss_rate']:.2%}"])
    return rows
