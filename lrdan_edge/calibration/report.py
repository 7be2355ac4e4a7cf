"""The calibration report: what was tried, what was chosen and why, as JSON, and a page from it."""

import msgspec

from lrdan_edge.bundle.decision import Decision
from lrdan_edge.calibration.choose import Choice, Sensitivity, Trial
from lrdan_edge.calibration.fidelity import LARGEST_AUROC_DIFFERENCE, LEAST_RANK_CORRELATION
from lrdan_edge.calibration.images import Material
from lrdan_edge.calibration.ranges import ActivationRange, Method


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """One activation's range: the largest magnitude seen, and the largest that int8 represents by each method."""

    tensor: str
    largest: float
    amplitudes: dict[str, float]


class CalibrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """``reports/calibration.json``.

    Attributes:
        command: What repeats it.
        images: Number of images by purpose.
        auroc_on: What AUROC was compared on, in words.
        labels: What labelled images had a part in, in words.
        method: The method chosen.
        kept_in_float: Layers that stayed in float.
        chosen: The chosen graph's trial.
        trials: All trials, in order.
        sensitivities: Per layer, what it does to the score when it alone is int8.
        ranges: Per activation.
        scores: Good images' scores that the graphs were compared on, by precision (``fp32``, ``int8``), in the same order.
        held_out_scores: Held-out good images' scores by precision, in the same order.
        thresholds: By precision.
        false_reject_rate: What was asked for.
        instruction_set: What the machine that calibrated computes int8 with. It had no part in the choice.
        kernels_add: What that machine's integer kernels add to the int8 scores: the largest difference on the good images that
            graphs were compared on, in deviations of their scores, by backend.
        seconds: How long each step took, by name.
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


def ranges_of(titles: dict[str, str], histograms: dict[str, ActivationRange], choice: Choice) -> list[Range]:
    """Every activation's range, by every method that was tried."""
    methods = list(dict.fromkeys(trial.method for trial in choice.trials))
    return [
        Range(tensor=titles[name], largest=found.largest, amplitudes={method: found.amplitude(method) for method in methods})
        for name, found in histograms.items()
    ]


def describe_labels(material: Material, decision: Decision) -> str:
    """What labelled images had a part in: they are not unseen any more, and the report says so."""
    if not material.defects:
        return "No labelled image had a part in this."
    parts = ["the choice of the int8 graph"]
    if any(graph.rule != "conformal" for graph in decision.graphs.values()):
        parts.append("the threshold")
    return (
        f"{len(material.defects)} labelled defects had a part in {' and '.join(parts)}: "
        "figures measured on these same images are better than on new ones."
    )


def as_markdown(report: CalibrationReport) -> str:
    """The report as a page."""
    images = ", ".join(f"{count} for {purpose}" for purpose, count in report.images.items())
    kept = ", ".join(report.kept_in_float) or "none"
    lines = [
        "# Calibration",
        "",
        f"`{report.command}`. Images: {images}. {report.labels}",
        "",
        f"Chosen: **{report.method}**; layers kept in float: {kept}.",
        "",
        "## What was tried",
        "",
        f"Bounds: rank correlation with fp32 at least {LEAST_RANK_CORRELATION}; no more good images with another verdict than "
        f"the false-reject rate asked for ({report.false_reject_rate:g}); AUROC within {LARGEST_AUROC_DIFFERENCE} of fp32's, on "
        f"{report.auroc_on}.",
        "",
        "| method | in float | rank correlation | among painted | added spread | verdicts changed | AUROC int8 | AUROC fp32 "
        "| bounds broken |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for trial in report.trials:
        found = trial.fidelity
        lines.append(
            f"| {trial.method} | {', '.join(trial.kept_in_float) or 'none'} | {found.rank_correlation:.4f} | "
            f"{found.painted_rank_correlation:.4f} | {found.added_spread:.3f} | {found.verdicts_changed:.1%} | "
            f"{found.auroc:.4f} | {found.auroc_fp32:.4f} | {'; '.join(trial.broken) or 'none'} |"
        )
    lines += ["", "Added spread: deviation of the score differences over the deviation of good scores."]
    added = ", ".join(f"{backend} {difference:.1g}" for backend, difference in report.kernels_add.items())
    lines += [
        "All of these were computed in floating point, so that any machine makes the same choice. Largest score difference between "
        f"this machine's integer kernels ({report.instruction_set}) and the floating-point result, in standard deviations of the "
        f"good scores: {added}.",
        "",
    ]
    lines += ["## Layers, each alone in int8", "", "| layer | added spread |", "|---|---|"]
    lines += [f"| {one.layer} | {one.added_spread:.4f} |" for one in report.sensitivities]
    lines += ["", "## Activations", "", f"| activation | largest | {' | '.join(report.ranges[0].amplitudes)} |"]
    lines.append("|---|---|" + "---|" * len(report.ranges[0].amplitudes))
    for one in report.ranges:
        lines.append(
            f"| {one.tensor} | {one.largest:.4g} | {' | '.join(f'{value:.4g}' for value in one.amplitudes.values())} |"
        )
    lines += ["", "## Thresholds", "", "| graph | threshold |", "|---|---|"]
    lines += [f"| {precision} | {threshold:.6g} |" for precision, threshold in report.thresholds.items()]
    lines += ["", f"Seconds: {', '.join(f'{step} {seconds:.1f}' for step, seconds in report.seconds.items())}."]
    return "\n".join(lines) + "\n"
