"""Options and words that several commands have."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from lrdan_edge.errors import SWITCHES, Parameter

BACKENDS = ["auto", "tensorrt", "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "torch", "null"]
"""Those of `lrdan_edge.engines.select`, written out so that ``--help`` imports nothing heavy; a test holds them equal."""

METHODS = [
    "min-max",
    "percentile-99.999",
    "percentile-99.997",
    "percentile-99.99",
    "entropy",
    "painted-min-max",
    "painted-percentile-99.99",
]
"""Those of `lrdan_edge.calibration.ranges`, likewise."""


class Option(Parameter):
    """A parameter in an error's fix, worded as an option: ``--image-size``, ``--image-size 64x64`` or ``--no-int8``."""

    __slots__ = ()

    def __format__(self, value: str) -> str:
        """Write the option alone, or with the value that the fix asks for."""
        name = self.replace("_", "-")
        if value in SWITCHES:
            return f"--{name}" if SWITCHES[value] else f"--no-{name}"
        return f"--{name} {value}" if value else f"--{name}"


Command = TypeVar("Command", bound=Callable[..., Any])


def bundle_option(command: Command) -> Command:
    """``-b/--bundle``, as ``bundle_path``."""
    return click.option(
        "-b",
        "--bundle",
        "bundle_path",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("bundle"),
        envvar="LRDAN_BUNDLE",
        show_default=True,
        show_envvar=True,
        help="The bundle's folder.",
    )(command)


def precision_options(command: Command) -> Command:
    """``--fp32``, ``--fp16`` and ``--int8``, as ``precision``."""
    for precision in ("int8", "fp16", "fp32"):
        command = click.option(f"--{precision}", "precision", flag_value=precision, help=f"Use the {precision} graph.")(command)
    return command


def backend_options(command: Command) -> Command:
    """``--backend``, and the precisions."""
    command = click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="auto",
        show_default=True,
        help="What runs the graph; auto takes the fastest that fits, any other never falls back.",
    )(command)
    return precision_options(command)


def next_step(done: str, command: str, bundle_path: Path) -> None:
    """Say what is done, and which command comes next for this bundle."""
    usual = Path(os.environ.get("LRDAN_BUNDLE", "bundle"))
    bundle = "" if bundle_path == usual else f" --bundle {shlex.quote(str(bundle_path))}"
    click.echo(f"{done} Next: lrdan-edge {command}{bundle}")
