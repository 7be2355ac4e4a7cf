"""`lrdan-edge build-engine` and `lrdan-edge engine`."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrdan_edge.cli.console import progress_bar, show, table, write_json
from lrdan_edge.cli.options import Parsed, bundle_option, next_step, option_group, precision_options, signature_option
from lrdan_edge.errors import LrdanError

if TYPE_CHECKING:
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.bundle.engine_sidecar import EngineSidecar
    from lrdan_edge.bundle.spec import Precision

_MARKS = {True: "ok", False: "FAILED", None: "-"}


def _batch(text: str) -> tuple[int, int, int]:
    """``8``, or ``1:4:16`` for the smallest, the best and the largest batch size."""
    match = re.fullmatch(r"(\d+)(?::(\d+):(\d+))?", text)
    low, best, high = (int(match[1]), int(match[2] or match[1]), int(match[3] or match[1])) if match else (0, 0, 0)
    if not 1 <= low <= best <= high:
        raise ValueError(f"{text!r} is not a batch range: write 8, or 1:4:16 for the smallest, best and largest batch size")
    return low, best, high


_tensorrt_options = option_group(
    "build",
    click.option(
        "--batch",
        "batches",
        type=Parsed("MIN:OPT:MAX", _batch),
        multiple=True,
        default=("1:1:8",),
        show_default=True,
        help="TensorRT: smallest, best and largest batch size. Repeat it for more profiles.",
    ),
    click.option(
        "--workspace",
        "workspace_mib",
        type=click.IntRange(min=1),
        metavar="MIB",
        help="TensorRT: scratch memory limit per kernel. [default: half of the free memory]",
    ),
    click.option(
        "--optimization-level",
        type=click.IntRange(0, 5),
        help="TensorRT: 0 builds fastest, 5 runs fastest. [default: TensorRT's own]",
    ),
    click.option("--version-compatible", is_flag=True, help="TensorRT: later TensorRT versions can run the engine too."),
    click.option(
        "--hardware-compatible",
        type=click.Choice(["ampere-plus", "same-compute-capability"]),
        help="TensorRT: other GPUs can run the engine too.",
    ),
    click.option("--refit", is_flag=True, help="TensorRT: the weights can be replaced later with 'engine refit'."),
    click.option(
        "--strip-weights", is_flag=True, help="TensorRT: leave the weights out; loading the engine reads them from the graph."
    ),
    click.option(
        "--dla", "dla_core", type=click.IntRange(min=0), metavar="CORE", help="TensorRT: use this DLA core where possible."
    ),
    click.option(
        "--verbose-log",
        "log_path",
        type=click.Path(path_type=Path, dir_okay=False),
        help="TensorRT: write all log messages to this file.",
    ),
)
"""Options of `lrdan_edge.engines.tensorrt.options.BuildOptions`."""


@click.command("build-engine")
@bundle_option
@signature_option
@precision_options
@click.option(
    "--target",
    type=click.Choice(["tensorrt", "openvino", "onnxruntime"]),
    default="tensorrt",
    show_default=True,
    help="Runtime of the engine. openvino and onnxruntime run on the processor.",
)
@_tensorrt_options
def build_engine(
    bundle_path: Path, require_signature: Path | None, precision: "Precision | None", target: Any, build: dict[str, Any]
) -> None:
    """Build an engine for this machine from a graph, and check it on the golden images."""
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.bundle.names import engine_stage
    from lrdan_edge.engines.build import BuildRequest
    from lrdan_edge.engines.build import build_engine as run_build
    from lrdan_edge.engines.select import fresh_benchmark
    from lrdan_edge.engines.tensorrt.options import BuildOptions

    if precision is None:
        raise click.UsageError("choose a precision: --fp16, --int8 or --fp32")
    options = BuildOptions(verbose=build["log_path"] is not None, **build)
    bundle = Bundle.open(bundle_path, require_signature=require_signature)
    with progress_bar("building") as progress:
        name = run_build(bundle, BuildRequest(precision, target, options), progress)
    record = bundle.manifest.stages[engine_stage(name)]
    check = record.results["golden_check"]
    worst = check if isinstance(check, str) else f"scores within {check:.1e} of the graph's on the golden images, relative"
    click.echo(f"{bundle_path}/engines/{name}: {record.results['bytes'] / 2**20:.1f} MiB in {record.seconds:.1f} s; {worst}")
    if on_dla := record.results.get("dla"):
        click.echo(f"DLA core {on_dla['core']} runs {on_dla['layers_on_dla']} layers; the GPU runs:")
        click.echo("\n".join(f"  {layer}" for layer in on_dla["gpu_fallbacks"]) or "  none")
    if fresh_benchmark(bundle) is None:
        click.echo("Which backend is the fastest here is not measured yet: lrdan-edge bench measures it.")
    next_step("Built.", "run SOURCE", bundle_path)


@click.group()
def engine() -> None:
    """List, inspect, verify, trust and refit the engines of the bundle."""


@engine.command("list")
@bundle_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_engines(bundle_path: Path, as_json: bool) -> None:
    """List the engines: size, build date, and whether each runs here."""
    from rich.table import Column

    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.bundle.names import ENGINES
    from lrdan_edge.engines.open import engine as engine_of
    from lrdan_edge.engines.open import engine_names

    bundle = Bundle.open(bundle_path)
    shown = table(Column("engine", no_wrap=True), "MiB", "built", "here")
    records: list[dict[str, object]] = []
    for name in engine_names(bundle):
        file = bundle.manifest.files.get(f"{ENGINES}/{name}")
        size = file.bytes if file else 0
        try:
            found = engine_of(bundle, name)
        except LrdanError as error:
            records.append({"name": name, "bytes": size, "damaged": str(error)})
            shown.add_row(name, f"{size / 2**20:.1f}", "", str(error), style="red")
            continue
        records.append({"name": name, "bytes": size, "obstacle": found.unusable_reason, "sidecar": found.sidecar})
        shown.add_row(name, f"{size / 2**20:.1f}", found.sidecar.built, found.unusable_reason or "runs")
    if as_json:
        write_json(records)
    elif records:
        show(shown)
    else:
        _print_none(bundle)
    if any("damaged" in record for record in records):
        sys.exit(1)


@engine.command("inspect")
@click.argument("name")
@bundle_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect_engine(name: str, bundle_path: Path, as_json: bool) -> None:
    """Show how engine NAME was built, where it runs, and the precision and size of each layer."""
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.engines.open import engine as engine_of
    from lrdan_edge.engines.open import engine_bytes

    bundle = Bundle.open(bundle_path)
    found = engine_of(bundle, name)
    size, sidecar = len(engine_bytes(bundle, found)), found.sidecar
    if as_json:
        write_json({"name": name, "bytes": size, "obstacle": found.unusable_reason, "sidecar": sidecar})
        return
    for title, value in {**_properties(bundle, name, size, sidecar), "here": found.unusable_reason or "runs"}.items():
        show(f"{title:<16}{value}")
    if not sidecar.layers:
        show(f"{'layers':<16}unknown: the engine was built where it could not be loaded")
        return
    shown = table("layer", "operator", "precision", "output", "weights KiB")
    for layer in sidecar.layers:
        weights = "" if layer.weights is None else f"{layer.weights / 1024:.1f}"
        shown.add_row(layer.name, layer.operator, layer.precision, "x".join(map(str, layer.shape)), weights)
    show(shown)


@engine.command("verify")
@click.argument("name", required=False)
@bundle_option
@signature_option
def verify_engine(name: str | None, bundle_path: Path, require_signature: Path | None) -> None:
    """Verify engine NAME, or all: files, signature, compatibility, and the scores of the golden images.

    Exits 1 unless every engine passes every check.
    """
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.engines.open import engine_names
    from lrdan_edge.engines.verify import verify_engine as run_verify

    bundle = Bundle.open(bundle_path, require_signature=require_signature)
    names = [name] if name else engine_names(bundle)
    passed = []
    for each in names:
        show(each)
        for check in run_verify(bundle, each):
            passed.append(bool(check.passed))
            show(f"  {check.name:<14} {_MARKS[check.passed]:<7} {check.said}", style=None if check.passed else "red")
    if not names:
        _print_none(bundle)
    if not names or not all(passed):
        sys.exit(1)


@engine.command("trust")
@click.argument("name", required=False)
@bundle_option
@click.option(
    "--sha256", metavar="HEX", help="SHA-256 of the engine, as 'engine verify' shows it on the machine that built it."
)
@click.option("--public-key", metavar="HEX", help="Instead: public key of a build machine, as 'engine verify' shows it there.")
def trust_engine(name: str | None, bundle_path: Path, sha256: str | None, public_key: str | None) -> None:
    """Trust engine NAME, which was built on another machine, or every engine that a build machine signs.

    An engine can run any code on this machine. Take the SHA-256 or the key from someone you trust, not from the bundle itself.
    """
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.engines.keys import trust_key
    from lrdan_edge.engines.open import trust_engine as run_trust

    if name and sha256 and not public_key:
        run_trust(Bundle.open(bundle_path), name, sha256)
        click.echo(f"{name} is trusted on this machine.")
    elif public_key and not (name or sha256):
        trust_key(public_key)
        click.echo("Engines signed with this key are trusted on this machine.")
    else:
        raise click.UsageError("give NAME and --sha256, or only --public-key")


@engine.command("refit")
@click.argument("name")
@bundle_option
@signature_option
def refit_engine(name: str, bundle_path: Path, require_signature: Path | None) -> None:
    """Put the weights of the current graph into engine NAME, which was built with --refit."""
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.engines.build import refit_engine as run_refit

    run_refit(Bundle.open(bundle_path, require_signature=require_signature), name)
    click.echo(f"{name} has the graph's weights.")


def _print_none(bundle: "Bundle") -> None:
    from lrdan_edge.bundle.command import Command

    command = Command("build-engine", int8=True, bundle=bundle.path)
    show(f"{bundle.path} has no engines: '{command}' makes one")


def _properties(bundle: "Bundle", name: str, size: int, sidecar: "EngineSidecar") -> dict[str, str]:
    from lrdan_edge.backends.layers import count_precisions
    from lrdan_edge.bundle.names import ENGINES, engine_stage

    check = sidecar.golden_check
    batch = "any" if sidecar.batch is None else ":".join(map(str, sidecar.batch))
    details = sidecar.details
    runtime = f"{details.get('module', sidecar.target)} {sidecar.target_version}"
    asked = [f"{key} {value}" for key, value in sidecar.options.items() if value is not None and value is not False]
    layers = ", ".join(f"{count} layers {precision}" for precision, count in count_precisions(sidecar.layers).items())
    return {
        "engine": f"{bundle.path / ENGINES / name}, {size / 2**20:.2f} MiB, sha256 {sidecar.engine_sha256}",
        "built": f"{sidecar.built} in {bundle.manifest.stages[engine_stage(name)].seconds:.1f} s",
        "graph": f"{sidecar.precision}, sha256 {sidecar.graph_sha256}",
        "by": runtime + (f", CUDA {details['cuda_driver']}" if "cuda_driver" in details else ""),
        "for": f"{sidecar.device} ({' '.join(sidecar.device_features) or 'any'}), {sidecar.platform}, batch {batch}",
        "options": ", ".join(asked),
        "golden images": check if isinstance(check, str) else f"scores within {check:.1e} of the graph's, relative",
        "precision got": layers or str(details.get("precision", "unknown")),
    }
