"""The calibration report: the methods tried and the one chosen, as JSON and as a Markdown page."""

import msgspec

from lrdan_edge.bundle.decision import Decision
from lrdan_edge.calibration.decision import FROM_GOOD
from lrdan_edge.calibration.fidelity import LARGEST_AUROC_DIFFERENCE, LEAST_RANK_CORRELATION
from lrdan_edge.calibration.images import CalibrationSplit
from lrdan_edge.calibration.methods import Method
from lrdan_edge.calibration.ranges import ActivationRange
from lrdan_edge.calibration.search import SearchResult, Sensitivity, Trial
from lrdan_edge.metrics import Recall


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """One activation's range: the largest magnitude seen, and the largest that int8 represents by each method."""

    tensor: str
    largest: float
    amplitudes: dict[str, float]


class CalibrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """``reports/calibration.json``.

    Attributes:
        command: The command that repeats the calibration.
        images: Number of images by purpose.
        auroc_on: Description of the images that AUROC was compared on.
        labels: Description of the use of labelled images.
        method: The method chosen.
        kept_in_float: Layers that stayed in float.
        chosen: The chosen graph's trial.
        trials: All trials, in order.
        sensitivities: Per layer, the change of the score if only this layer is int8.
        ranges: One per activation.
        scores: Scores of the good images for comparison, by precision (``fp32``, ``int8``), in the same order.
        held_out_scores: Held-out good images' scores by precision, in the same order.
        thresholds: Thresholds by precision.
        false_reject_rate: The target rate.
        instruction_set: The int8 instructions of the machine that calibrated. They do not affect the choice.
        kernels_add: The largest difference of int8 scores caused by that machine's integer kernels, on the good images for
            comparison, in standard deviations of their scores, by backend.
        seconds: Duration of each step in seconds, by name.
        recalls: Recall of each graph at its own threshold on the labelled defects, by precision; empty without them.
        promise: What the promised false-reject rate covers, one sentence; empty if the rule promises none.
    """

    command: str
    images: dict[str, int]
    auroc_on: str
    labels: str
    method: Method
    kept_in_float: list[str]
    chosen: Trial
    trials: list[Trial]
    sensitivities: list[Sensitivity]
    ranges: list[Range]
    scores: dict[str, list[float]]
    held_out_scores: dict[str, list[float]]
    thresholds: dict[str, float]
    false_reject_rate: float
    instruction_set: str
    kernels_add: dict[str, float]
    seconds: dict[str, float]
    recalls: dict[str, Recall] = {}
    promise: str = ""


def ranges_of(titles: dict[str, str], histograms: dict[str, ActivationRange], found: SearchResult) -> list[Range]:
    """The range of every activation by each method that was tried."""
    methods = list(dict.fromkeys(trial.method for trial in found.trials))
    return [
        Range(tensor=titles[name], largest=found.largest, amplitudes={method: found.amplitude(method) for method in methods})
        for name, found in histograms.items()
    ]


def describe_labels(split: CalibrationSplit, decision: Decision) -> str:
    """Describe the use of labelled images, which are then no longer unseen test images."""
    if not split.defects:
        return "No labelled image was used."
    parts = ["the choice of the int8 graph"]
    if any(graph.rule not in FROM_GOOD for graph in decision.graphs.values()):
        parts.append("the threshold")
    return (
        f"{len(split.defects)} labelled defects were used for {' and '.join(parts)}: "
        "results measured on these images are better than on new ones."
    )


def as_markdown(report: CalibrationReport) -> str:
    """The report as a Markdown page."""
    images = ", ".join(f"{count} for {purpose}" for purpose, count in report.images.items())
    kept = ", ".join(report.kept_in_float) or "none"
    labelled = report.chosen.fidelity.recall is not None
    at = [f"recall at {report.false_reject_rate:.2%} false rejects, {graph}" for graph in ("int8", "fp32")] if labelled else []
    lines = [
        "# Calibration",
        "",
        f"`{report.command}`. Images: {images}. {report.labels}",
        "",
        f"Chosen: **{report.method}**; layers kept in float: {kept}.",
        "",
        "## Trials",
        "",
        f"Bounds: rank correlation with fp32 at least {LEAST_RANK_CORRELATION}; fraction of good images with a changed verdict at most "
        f"the target false-reject rate ({report.false_reject_rate:g}); AUROC within {LARGEST_AUROC_DIFFERENCE} of fp32's, on "
        f"{report.auroc_on}.",
        "",
        "| method | in float | good images | rank correlation | on painted defects | added spread | verdicts changed "
        f"{''.join(f'| {name} ' for name in at)}| AUROC int8 | AUROC fp32 | bounds broken |",
        "|---|---|---|---|---|---|---|" + "---|" * len(at) + "---|---|---|",
    ]
    for trial in report.trials:
        found = trial.fidelity
        lines.append(
            f"| {trial.method} | {', '.join(trial.kept_in_float) or 'none'} | {found.images} | {found.rank_correlation:.4f} | "
            f"{found.painted_rank_correlation:.4f} | {found.added_spread:.3f} | {found.verdicts_changed:.1%} | "
            f"{''.join(f'{recall.in_short()} | ' for recall in (found.recall, found.recall_fp32) if recall)}"
            f"{found.auroc:.4f} | {found.auroc_fp32:.4f} | {'; '.join(trial.broken) or 'none'} |"
        )
    lines += ["", "Added spread: deviation of the score differences over the deviation of good scores."]
    added = ", ".join(f"{backend} {difference:.1g}" for backend, difference in report.kernels_add.items())
    lines += [
        "All trials were computed in floating point, so that every machine makes the same choice. Largest score difference between "
        f"this machine's integer kernels ({report.instruction_set}) and the floating-point result, in standard deviations of the "
        f"good scores: {added}.",
        "",
    ]
    lines += ["## Sensitivity: only this layer in int8", "", "| layer | added spread |", "|---|---|"]
    lines += [f"| {one.layer} | {one.added_spread:.4f} |" for one in report.sensitivities]
    lines += ["", "## Activations", "", f"| activation | largest | {' | '.join(report.ranges[0].amplitudes)} |"]
    lines.append("|---|---|" + "---|" * len(report.ranges[0].amplitudes))
    for one in report.ranges:
        lines.append(
            f"| {one.tensor} | {one.largest:.4g} | {' | '.join(f'{value:.4g}' for value in one.amplitudes.values())} |"
        )
    lines += ["", *_thresholds(report)]
    lines += ["", f"Seconds: {', '.join(f'{step} {seconds:.1f}' for step, seconds in report.seconds.items())}."]
    return "\n".join(lines) + "\n"


def _thresholds(report: CalibrationReport) -> list[str]:
    """The table of thresholds, with the recall on labelled defects if there are any."""
    column = " recall on the labelled defects |" if report.recalls else ""
    lines = ["## Thresholds", "", f"| graph | threshold |{column}", "|---|---|" + "---|" * bool(column)]
    for precision, threshold in report.thresholds.items():
        recall = f" {report.recalls[precision].in_words()} |" if column else ""
        lines.append(f"| {precision} | {threshold:.6g} |{recall}")
    return [*lines, "", f"{report.promise[:1].upper()}{report.promise[1:]}."] if report.promise else lines
