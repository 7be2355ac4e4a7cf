"""`lrdan-edge evaluate` and `lrdan-edge explain`: accuracy on test images, and why an image was judged as it was."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lrdan_edge.cli.console import progress_bar, show, show_unread, table, write_json
from lrdan_edge.cli.options import backend_options, bundle_option, in_words, precision_options, signature_option

if TYPE_CHECKING:
    from lrdan_edge.bundle.spec import Precision
    from lrdan_edge.evaluation.conclusion import Conclusion
    from lrdan_edge.evaluation.result import Evaluation


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@bundle_option
@signature_option
@backend_options
@click.option(
    "--report",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the report instead of the bundle, which is then not changed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def evaluate(
    data: Path,
    bundle_path: Path,
    require_signature: Path | None,
    backend: str,
    precision: "Precision | None",
    report: Path | None,
    as_json: bool,
) -> None:
    """Measure on test images how well the detector separates good from defective parts.

    DATA is a folder with test/good and test/<defect>, and optionally masks in ground_truth/<defect>; or it has folders such as OK, NG
    and mask.
    """
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.evaluation.evaluate import evaluate as run_evaluation

    bundle = Bundle.open(bundle_path, require_signature=require_signature)
    with progress_bar("evaluating") as progress:
        result, pictures = run_evaluation(bundle, data, backend=backend, precision=precision, report=report, progress=progress)
    if as_json:
        write_json(result)
        return
    _print_evaluation(result)
    for picture in pictures:
        show(str(picture))
    for note in result.notes:
        show(f"Note: {note}", style="yellow")
    if not pictures:
        show("Give --report DIR to keep the figures and pictures elsewhere.")
    if result.conclusion:
        _print_conclusion(result.conclusion)


def _print_conclusion(conclusion: "Conclusion") -> None:
    *figures, fit = conclusion.in_words()
    for sentence in figures:
        show(sentence)
    show(fit, style="bold")
    if conclusion.advice:
        show(f"What would help most: {in_words(conclusion.advice)}.")


def _print_evaluation(result: "Evaluation") -> None:
    from lrdan_edge.evaluation.evaluate import kind_rows
    from lrdan_edge.evaluation.result import AT_2_PERCENT

    figures = table("figure", "value", title=f"{result.good} good, {result.defective} defective, {result.backend}")
    for name, value in result.recalls_in_words().items():
        figures.add_row(name, value)
    figures.add_row("image AUROC", f"{result.image_auroc:.4f}")
    figures.add_row("pixel AUROC", "no masks" if result.pixel_auroc is None else f"{result.pixel_auroc:.4f}")
    for name, value in result.in_words().items():
        figures.add_row(name, value)
    figures.add_row("threshold", f"{result.threshold:.6g}")
    if result.faults:
        figures.add_row("faults", str(result.faults), style="yellow")
    show(figures)
    kinds = table("defect", "images", "recall at the threshold", AT_2_PERCENT, "image AUROC", "miss rate")
    for row in kind_rows(result):
        kinds.add_row(*row)
    show(kinds)


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@bundle_option
@signature_option
@precision_options
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("explanation.html"),
    show_default=True,
    help="HTML file to write.",
)
@click.option("--threshold", type=float, help="Judge by this threshold instead of the calibrated one.")
def explain(
    images: tuple[Path, ...],
    bundle_path: Path,
    require_signature: Path | None,
    precision: "Precision | None",
    output: Path,
    threshold: float | None,
) -> None:
    """Write a page that shows why each of IMAGES (files or folders) was judged as it was.

    The page is one self-contained HTML file. For each image it shows the reconstruction and the difference (not for padim,
    patchcore and others with a backbone, which reconstruct nothing), the heatmap, and the score among the scores of good images.
    """
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.runtime.explain import explain as run_explain

    show_unread(*images)
    bundle = Bundle.open(bundle_path, require_signature=require_signature)
    page = run_explain(bundle, list(images), output, precision=precision, threshold=threshold)
    click.echo(f"{page.path}: {page.images} image{'s' if page.images != 1 else ''}, {page.rejected} rejected, by {page.graph}")
    for note in page.notes:
        show(f"Note: {note}", style="yellow")
