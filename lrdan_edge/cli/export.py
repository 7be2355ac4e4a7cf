"""`lrdan-edge export`: from weights to deploy graphs."""

from pathlib import Path

import click

from lrdan_edge.cli.console import progress_bar
from lrdan_edge.cli.options import bundle_option, next_step
from lrdan_edge.cli.view_options import SIZE


@click.command()
@bundle_option
@click.option("--frame-size", type=SIZE, help="Size of the camera's frames; the graph resizes them. [default: as in training]")
def export(bundle_path: Path, frame_size: tuple[int, int] | None) -> None:
    """Write the fp32 and fp16 deploy graphs (ONNX) and compare them with PyTorch on real images."""
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.export.graph import export as run_export

    bundle = Bundle.open(bundle_path)
    with progress_bar("exporting") as progress:
        run_export(bundle, frame_size=frame_size, progress=progress)
    for precision, check in bundle.manifest.stages["export"].results.items():
        worst = check["largest_relative_score_difference"]
        click.echo(f"{bundle_path}/model.{precision}.onnx: relative score difference from PyTorch at most {worst:.1e}")
    click.echo(f"Full report: {bundle_path}/reports/parity.md")
    next_step("Exported.", "calibrate", bundle_path)
