"""Differences between two runners of one deploy graph, in scores, heatmaps and AUROC."""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.spec import Precision
from lrdan_edge.metrics import auroc, relative_differences

SCORE_BOUND: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3}
"""Largest relative score difference between a graph and PyTorch in float32, as `relative_differences`."""

AUROC_BOUND = 0.005
"""Largest AUROC difference from PyTorch in float32, or for int8 from the fp32 graph."""

HEATMAP_BOUND: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2}
"""Largest mean difference of heatmap values, in the unit of the score."""

Floats = npt.NDArray[np.float32]


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One runner of one graph compared with the reference, on the same images.

    Attributes:
        precision: The graph's precision.
        runner: The backend that ran it, with its version.
        images: Number of images.
        score_max: Largest score difference, as `relative_differences`.
        score_mean: Mean score difference, likewise.
        heatmap_max: Largest difference of a heatmap value, in the unit of the score.
        heatmap_mean: Mean difference over all pixels, likewise.
        auroc: This runner's AUROC, or None without labelled defects.
        auroc_difference: Absolute difference from the reference's, or None without labelled defects.
    """

    precision: Precision
    runner: str
    images: int
    score_max: float
    score_mean: float
    heatmap_max: float | None
    heatmap_mean: float | None
    auroc: float | None
    auroc_difference: float | None

    def broken(self) -> list[str]:
        """Describe the bounds that are broken; a NaN breaks every bound."""
        bound = SCORE_BOUND.get(self.precision)
        words = []
        if bound is not None and not self.score_max <= bound:
            words.append(f"scores differ by {self.score_max:.2e} (bound {bound:.0e})")
        heatmap_bound = HEATMAP_BOUND.get(self.precision)
        if heatmap_bound is not None and self.heatmap_mean is not None and not self.heatmap_mean <= heatmap_bound:
            words.append(f"heatmaps differ by {self.heatmap_mean:.2e} on average (bound {heatmap_bound:.0e})")
        if self.auroc_difference is not None and not self.auroc_difference <= AUROC_BOUND:
            words.append(f"AUROC differs by {self.auroc_difference:.4f} (bound {AUROC_BOUND:g})")
        return words


class ParityReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``reports/parity.json``.

    Attributes:
        schema_version: The manifest's schema version.
        command: The command that measured it.
        reference: Description of the reference that the rows are compared with.
        images: Description of the images.
        score_quantiles: Five quantiles of the reference's scores, to put differences in proportion.
        rows: One per graph and runner.
        not_measured: Backends that could not be measured, with the reason.
        versions: Versions of the packages involved.
    """

    schema_version: int
    command: str
    reference: str
    images: str
    score_quantiles: list[float]
    rows: list[Parity]
    not_measured: list[str]
    versions: dict[str, str]


def compare(
    precision: Precision,
    runner: str,
    actual: tuple[Floats, Floats | None],
    expected: tuple[Floats, Floats | None],
    *,
    unit: float,
    defective: Sequence[bool] | npt.NDArray[np.bool_] | None = None,
) -> Parity:
    """Compare the scores and heatmaps of one runner with the reference.

    Args:
        precision: The graph's precision.
        runner: The backend that ran the graph.
        actual: The runner's scores, float32 [n], and heatmaps, float32 [n, h, w], or None.
        expected: The reference's scores and heatmaps of the same images.
        unit: The unit of scores; see `Scoring.unit`.
        defective: Whether each image is defective, or None if unknown.
    """
    scores = relative_differences(actual[0], expected[0], unit)
    heats = None if actual[1] is None or expected[1] is None else np.abs(actual[1] - expected[1])
    aurocs: tuple[float, float] | None = None
    if defective is not None and np.any(defective) and not np.all(defective):
        mask = np.asarray(defective, np.bool_)
        aurocs = auroc(actual[0][~mask], actual[0][mask]), auroc(expected[0][~mask], expected[0][mask])
    return Parity(
        precision=precision,
        runner=runner,
        images=len(scores),
        score_max=float(scores.max()),
        score_mean=float(scores.mean()),
        heatmap_max=None if heats is None else float(heats.max()),
        heatmap_mean=None if heats is None else float(heats.mean(dtype=np.float64)),
        auroc=aurocs and aurocs[0],
        auroc_difference=aurocs and abs(aurocs[0] - aurocs[1]),
    )


def as_markdown(report: ParityReport) -> str:
    """The report as a Markdown page."""
    quantiles = ", ".join(f"{value:.4g}" for value in report.score_quantiles)
    lines = [
        "# Parity",
        "",
        f"`{report.command}`: every graph against {report.reference}, on {report.images}. Scores there: {quantiles} "
        "(smallest, quartiles, largest). A score's difference is relative to the score, the median score or one unit, whichever "
        "is largest; a heatmap's is absolute.",
        "",
        "| graph | run by | images | score, largest | score, mean | bound | heatmap, largest | heatmap, mean | AUROC | AUROC, difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        bound = SCORE_BOUND.get(row.precision)
        cells = [
            row.precision,
            row.runner,
            str(row.images),
            f"{row.score_max:.1e}",
            f"{row.score_mean:.1e}",
            "none" if bound is None else f"{bound:.0e}",
            *("not measured" if value is None else f"{value:.1e}" for value in (row.heatmap_max, row.heatmap_mean)),
            *("no defects" if value is None else f"{value:.4f}" for value in (row.auroc, row.auroc_difference)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if report.not_measured:
        lines += ["", "Not measured:", *(f"- {reason}" for reason in report.not_measured)]
    lines += ["", ", ".join(f"{name} {version}" for name, version in report.versions.items()) + "."]
    return "\n".join(lines) + "\n"
