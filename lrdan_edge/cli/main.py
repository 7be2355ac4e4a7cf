"""The command line: the list of commands, and how errors are printed. Imports nothing heavy before a command runs."""

import os
from typing import Any

import click

from lrdan_edge import __version__
from lrdan_edge.cli.bench import bench
from lrdan_edge.cli.bundle import bundle_group, info
from lrdan_edge.cli.calibrate import calibrate
from lrdan_edge.cli.camera import camera
from lrdan_edge.cli.console import printable
from lrdan_edge.cli.dataset import dataset
from lrdan_edge.cli.demo import demo
from lrdan_edge.cli.engine import build_engine, engine
from lrdan_edge.cli.evaluate import evaluate, explain
from lrdan_edge.cli.export import export
from lrdan_edge.cli.options import options_of
from lrdan_edge.cli.protocol import protocol
from lrdan_edge.cli.run import run
from lrdan_edge.cli.train import train
from lrdan_edge.data.native_noise import native_noise
from lrdan_edge.errors import LrdanError


class _Group(click.Group):
    """Prints the toolkit's own errors in one line and exits 1; everything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LrdanError as error:
            option = options_of(self.commands[str(ctx.invoked_subcommand)])
            raise click.ClickException(printable(" ".join(error.worded(option).split()))) from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)  # in the order of use, not alphabetical


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="lrdan-edge")
def cli() -> None:
    """Train LRDAN anomaly detectors on good parts, and run them on edge devices.

    The usual order: train, export, calibrate, build-engine, run. Every command reads a bundle (a folder) and adds to it.
    """


for command in (dataset, train, export, calibrate, build_engine, engine, camera):
    cli.add_command(command)
for command in (run, evaluate, explain, bench, protocol, bundle_group, info, demo):
    cli.add_command(command)


def main() -> None:
    """Entry point of ``lrdan-edge``."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # its messages name no file, and our own errors do
    native_noise.enable()
    cli(prog_name="lrdan-edge")


if __name__ == "__main__":
    main()
