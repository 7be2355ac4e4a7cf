"""`lrdan-edge info` and `lrdan-edge bundle`: what a bundle contains, whether it is complete, and who signed it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lrdan_edge.cli.console import printable, show, table, write_json
from lrdan_edge.cli.options import bundle_argument, bundle_option
from lrdan_edge.errors import LrdanError

if TYPE_CHECKING:
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.bundle.verify import BundleCheck


@click.command()
@bundle_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(bundle_path: Path, as_json: bool) -> None:
    """Show the contents of the bundle, what is stale or damaged, and which engines run here.

    Exits 1 if something is stale or damaged.
    """
    from lrdan_edge.backends.processor import processor
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.bundle.signature import describe_signature
    from lrdan_edge.bundle.verify import verify_bundle

    bundle = Bundle.open(bundle_path)
    signature = describe_signature(bundle_path)
    check = verify_bundle(bundle)
    if as_json:
        here = processor()
        machine = {"name": here.name, "instruction_set": here.instruction_set, "int8_is_faster": here.int8_is_faster}
        found = {"damaged": check.damaged, "stale": check.stale, "signature": signature}
        write_json({"path": str(bundle.path), **found, "processor": machine, "manifest": bundle.manifest})
    else:
        _print_model(bundle)
        _print_stages(bundle, check)
        show(f"signature: {signature}")
        show(f"processor: {processor().name}, {processor().describe_int8()}")
        _print_engines(bundle)
        for line in check.damaged.values():
            show(line, style="red")
    if not check.passed:
        sys.exit(1)


@click.group("bundle")
def bundle_group() -> None:
    """Sign the bundle, and verify its files and its signature."""


@bundle_group.command("new-key")
@click.argument("key", type=click.Path(path_type=Path, dir_okay=False))
def new_key(key: Path) -> None:
    """Make an Ed25519 key pair: the private key in KEY, the public key in KEY.pub.

    Keep KEY secret, on the machine that signs. Copy KEY.pub to the devices over a channel that you trust.
    """
    from lrdan_edge.keys import new_key as make_key

    public = make_key(key)
    click.echo(f"{key}: private key, to sign with. {public}: public key, for the devices.")


@bundle_group.command("sign")
@bundle_argument
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Private Ed25519 key to sign with, a PEM file.",
)
def sign(bundle_path: Path, key: Path) -> None:
    """Sign BUNDLE as it is now, after comparing every file with the manifest.

    A later stage that changes weights, graphs, thresholds or golden frames removes the signature. Reports and engines do not; engines
    have signatures of their own.
    """
    from lrdan_edge.bundle.sign import sign_bundle

    public_key = sign_bundle(bundle_path, key)
    click.echo(f"{bundle_path} is signed; public key {public_key}")


@bundle_group.command("verify")
@bundle_argument
@click.option(
    "--public-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ed25519 key whose owner must have signed the bundle, a PEM file. [default: say only which key signed it]",
)
def verify(bundle_path: Path, public_key: Path | None) -> None:
    """Verify BUNDLE: every file against the manifest, every stage against its inputs, and the signature.

    Exits 1 if any check fails. Engines are verified by 'engine verify'.
    """
    from lrdan_edge.bundle.bundle import Bundle
    from lrdan_edge.bundle.signature import describe_signature
    from lrdan_edge.bundle.verify import verify_bundle

    bundle = Bundle.open(bundle_path, require_signature=public_key)
    check = verify_bundle(bundle)
    for line in check.damaged.values():
        show(line, style="red")
    for stage, why in check.stale.items():
        show(f"{stage} is stale: {why}", style="red")
    show(f"files: {len(bundle.manifest.files) - len(check.damaged)} of {len(bundle.manifest.files)} match the manifest")
    show(f"signature: {f'by the required key {bundle.signed_by}, valid' if public_key else describe_signature(bundle_path)}")
    if not check.passed:
        sys.exit(1)


def _print_model(bundle: "Bundle") -> None:
    model, scoring = bundle.manifest.model, bundle.manifest.scoring
    smoothed = f", smoothed over {scoring.smoothing_sigma:g} pixels" if scoring.smoothing_sigma else ""
    show(
        f"{bundle.path}: {model.recipe}, {model.height}x{model.width} pixels, {bundle.manifest.preprocessing.colour}; "
        f"score: {scoring.pooling} of the {'normalised ' if scoring.normalise else ''}"
        f"{'error map' if scoring.source == 'error' else 'map of marked defects'}"
        f"{smoothed}{', with an area term' if scoring.extent else ''}"
        f"{'; the heatmap has a context gain' if scoring.nearby else ''}"
    )
    if model.geometry:
        show(f"takes {model.geometry.describe(model.height, model.width)}")


def _print_stages(bundle: "Bundle", check: "BundleCheck") -> None:
    shown = table("stage", "finished", "seconds", "state", "files")
    for name, record in bundle.manifest.stages.items():
        state = f"stale: {check.stale[name]}" if name in check.stale else "fresh"
        cells = (name, record.finished, f"{record.seconds:.1f}", state, str(len(record.outputs)))
        shown.add_row(*map(printable, cells))
    show(shown)
    if bundle.pending:
        show("a commit was interrupted: nothing is lost, and the next command that writes to the bundle completes it")
    if "calibrate" in bundle.manifest.stages and "calibrate" not in check.stale and not check.damaged:
        for precision, graph in bundle.decision().graphs.items():
            show(f"{precision}: threshold {graph.threshold:.6g}, false-reject rate {graph.false_reject_rate:g}")


def _print_engines(bundle: "Bundle") -> None:
    from lrdan_edge.bundle.command import Command
    from lrdan_edge.bundle.names import graph_name, processor_graph_name
    from lrdan_edge.engines.open import engines

    if graph_name("int8") in bundle.manifest.files and processor_graph_name("int8") not in bundle.manifest.files:
        command = Command("calibrate", bundle=bundle.path)
        show(
            "int8: this graph was made by an older lrdan-edge and may score differently on other processors; run "
            f"'{command}' to replace it"
        )
    try:
        for engine in engines(bundle):
            show(f"engine {engine.name}: {engine.unusable_reason or 'runs here'}")
    except LrdanError as error:
        show(str(error), style="red")
