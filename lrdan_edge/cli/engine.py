"""The commands that build engines and look after them."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrdan_edge.cli.options import bundle_option, next_step, precision_options

if TYPE_CHECKING:
    from lrdan_edge.bundle.spec import Precision


class _Batch(click.ParamType):  # type: ignore[type-arg]  # generic in click's stubs alone
    """``8``, or ``1:4:16`` for the smallest, the best and the largest batch."""

    name = "MIN:OPT:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)(?::(\d+):(\d+))?", str(value))
        low, best, high = (int(match[1]), int(match[2] or match[1]), int(match[3] or match[1])) if match else (0, 0, 0)
        if not 1 <= low <= best <= high:
            self.fail(f"{value!r} is not a batch range: write 8, or 1:4:16 for smallest, best, largest", param, ctx)
        return low, best, high


@click.command("build-engine")
@bundle_option
@precision_options
@click.option(
    "--target",
    type=click.Choice(["tensorrt", "openvino", "onnxruntime"]),
    default="tensorrt",
    show_default=True,
    help="What the engine is for; openvino and onnxruntime run on the processor.",
)
@click.option(
    "--batch",
    "batches",
    type=_Batch(),
    multiple=True,
    default=("1:1:8",),
    show_default=True,
    help="TensorRT: smallest, best, largest batch; repeat it for more profiles.",
)
@click.option(
    "--workspace", type=click.IntRange(min=1), metavar="MIB", help="TensorRT: memory limit. [default: half of what is free]"
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="TensorRT: 0 builds fastest, 5 runs fastest. [default: TensorRT's own]",
)
@click.option("--version-compatible", is_flag=True, help="TensorRT: later versions may run the engine too.")
@click.option(
    "--hardware-compatible",
    type=click.Choice(["ampere-plus", "same-compute-capability"]),
    help="TensorRT: other GPUs may run the engine too.",
)
@click.option("--refit", is_flag=True, help="TensorRT: the weights can be replaced later, by 'engine refit'.")
@click.option("--strip-weights", is_flag=True, help="TensorRT: leave the weights out; they come from the graph at load.")
@click.option("--dla", type=click.IntRange(min=0), metavar="CORE", help="TensorRT: this DLA core runs what it can.")
@click.option("--verbose-log", type=click.Path(path_type=Path, dir_okay=False), help="TensorRT: write its every message here.")
def build_engine(
    bundle_path: Path,
    precision: "Precision | None",
    target: Any,
    batches: tuple[tuple[int, int, int], ...],
    workspace: int | None,
    optimization_level: int | None,
    version_compatible: bool,
    hardware_compatible: Any,
    refit: bool,
    strip_weights: bool,
    dla: int | None,
    verbose_log: Path | None,
) -> None:
    """Build an engine for this machine from a graph, and check it on the golden images."""
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.bundle.names import engine_stage
    from lrdan_edge.cli.show import build_progress
    from lrdan_edge.engines.build import BuildRequest
    from lrdan_edge.engines.build import build_engine as run_build
    from lrdan_edge.engines.tensorrt.options import BuildOptions

    if precision is None:
        raise click.UsageError("choose a precision: --fp16, --int8 or --fp32")
    options = BuildOptions(
        batches=batches,
        workspace_mib=workspace,
        optimization_level=optimization_level,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        refit=refit,
        strip_weights=strip_weights,
        dla_core=dla,
        verbose=verbose_log is not None,
        log_path=verbose_log,
    )
    bundle = Bundle.open(bundle_path)
    with build_progress() as progress:
        name = run_build(bundle, BuildRequest(precision, target, options), progress)
    record = bundle.manifest.stages[engine_stage(name)]
    check = record.results["golden_check"]
    worst = check if isinstance(check, str) else f"scores within {check:.1e} of the graph's on the golden frames, relative"
    click.echo(f"{bundle_path}/engines/{name}: {record.results['bytes'] / 2**20:.1f} MiB in {record.seconds:.1f} s; {worst}")
    if on_dla := record.results.get("dla"):
        click.echo(f"DLA core {on_dla['core']} runs {on_dla['layers_on_dla']} layers; the GPU runs:")
        click.echo("\n".join(f"  {layer}" for layer in on_dla["gpu_fallbacks"]) or "  none")
    next_step("Built.", "run SOURCE", bundle_path)


@click.group()
def engine() -> None:
    """List, inspect, verify, trust and refit the bundle's engines."""


@engine.command("list")
@bundle_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_engines(bundle_path: Path, as_json: bool) -> None:
    """List the engines: size, when built, and what runs here."""
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.cli.show_engines import print_engines

    if not print_engines(Bundle.open(bundle_path), as_json=as_json):
        sys.exit(1)


@engine.command("inspect")
@click.argument("name")
@bundle_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect_engine(name: str, bundle_path: Path, as_json: bool) -> None:
    """Show engine NAME: what it was built from and for, and each layer's precision and size."""
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.cli.show_engines import print_engine

    print_engine(Bundle.open(bundle_path), name, as_json=as_json)


@engine.command("verify")
@click.argument("name", required=False)
@bundle_option
def verify_engine(name: str | None, bundle_path: Path) -> None:
    """Verify engine NAME, or all: file, signature, fit, and the golden images' scores.

    Exits 1 unless every engine may decide about parts here.
    """
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.cli.show_engines import print_verification

    if not print_verification(Bundle.open(bundle_path), name):
        sys.exit(1)


@engine.command("trust")
@click.argument("name")
@bundle_option
@click.option("--sha256", required=True, help="The engine's sha256, as 'engine verify' shows it on the machine that built it.")
def trust_engine(name: str, bundle_path: Path, sha256: str) -> None:
    """Vouch for engine NAME, built elsewhere: it runs code on this machine.

    Take the sha256 from whom you trust, not from the bundle itself.
    """
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.engines.open import trust_engine as run_trust

    run_trust(Bundle.open(bundle_path), name, sha256)
    click.echo(f"{name} is trusted on this machine.")


@engine.command("refit")
@click.argument("name")
@bundle_option
def refit_engine(name: str, bundle_path: Path) -> None:
    """Put the new graph's weights into engine NAME, which was built with --refit."""
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.engines.build import refit_engine as run_refit

    run_refit(Bundle.open(bundle_path), name)
    click.echo(f"{name} has the graph's weights.")
