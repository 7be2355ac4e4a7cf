"""What ``lrdan-edge engine`` shows."""

import sys

import msgspec
from rich.table import Column, Table

from lrdan_edge.backends.layers import count_precisions
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.engine_sidecar import EngineLayer, EngineSidecar
from lrdan_edge.bundle.names import ENGINES, engine_stage
from lrdan_edge.cli.show import console
from lrdan_edge.engines.open import engine, engine_bytes, engine_names
from lrdan_edge.engines.verify import verify_engine
from lrdan_edge.errors import LrdanError

_MARKS = {True: "ok", False: "FAILED", None: "-"}


def print_engines(bundle: Bundle, *, as_json: bool) -> bool:
    """All engines of the bundle; a damaged one has its damage for a description.

    Returns:
        Whether all sidecars could be read.
    """
    table = Table(Column("engine", no_wrap=True), "MiB", "built", "here")
    facts: list[dict[str, object]] = []
    damaged = False
    for name in engine_names(bundle):
        record = bundle.manifest.files.get(f"{ENGINES}/{name}")
        size = record.bytes if record else 0
        try:
            found = engine(bundle, name)
        except LrdanError as error:
            damaged = True
            facts.append({"name": name, "bytes": size, "damaged": str(error)})
            table.add_row(name, f"{size / 2**20:.1f}", "", str(error), style="red")
            continue
        facts.append({"name": name, "bytes": size, "obstacle": found.obstacle, "sidecar": found.sidecar})
        table.add_row(name, f"{size / 2**20:.1f}", found.sidecar.built, found.obstacle or "runs")
    if as_json:
        _write_json(facts)
    elif facts:
        console.print(table)
    else:
        console.print(f"{bundle.path} has no engines: 'lrdan-edge build-engine --int8 --bundle {bundle.path}' makes one")
    return not damaged


def print_engine(bundle: Bundle, name: str, *, as_json: bool) -> None:
    """One engine: where it comes from, what it fits, and its layers.

    Raises:
        LrdanError: There is no such engine, or its files are damaged.
    """
    found = engine(bundle, name)
    size, sidecar = len(engine_bytes(bundle, found)), found.sidecar
    if as_json:
        _write_json({"name": name, "bytes": size, "obstacle": found.obstacle, "sidecar": sidecar})
        return
    for title, value in _facts(bundle, name, size, sidecar).items():
        console.print(f"{title:<16}{value}")
    console.print(f"{'here':<16}{found.obstacle or 'runs'}")
    if not sidecar.layers:
        console.print(f"{'layers':<16}unknown: the engine was built where it could not be loaded")
        return
    table = Table("layer", "operator", "precision", "output", "weights KiB")
    for layer in sidecar.layers:
        weights = "" if layer.weights is None else f"{layer.weights / 1024:.1f}"
        table.add_row(layer.name, layer.operator, layer.precision, "x".join(map(str, layer.shape)), weights)
    console.print(table)


def print_verification(bundle: Bundle, name: str | None) -> bool:
    """Verify one engine, or all.

    Returns:
        Whether each may decide about parts here.

    Raises:
        MissingStageError: There is no such engine.
    """
    names = [name] if name else engine_names(bundle)
    sound = True
    for each in names:
        console.print(each)
        for check in verify_engine(bundle, each):
            sound = sound and bool(check.passed)
            console.print(f"  {check.name:<10} {_MARKS[check.passed]:<7} {check.said}", style=None if check.passed else "red")
    if not names:
        console.print(f"{bundle.path} has no engines: 'lrdan-edge build-engine --int8 --bundle {bundle.path}' makes one")
    return sound and bool(names)


def _facts(bundle: Bundle, name: str, size: int, sidecar: EngineSidecar) -> dict[str, str]:
    check = sidecar.golden_check
    batch = "any" if sidecar.batch is None else ":".join(map(str, sidecar.batch))
    details = sidecar.details
    runtime = f"{details.get('module', sidecar.target)} {sidecar.target_version}"
    asked = [f"{key} {value}" for key, value in sidecar.options.items() if value is not None and value is not False]
    return {
        "engine": f"{bundle.path / ENGINES / name}, {size / 2**20:.2f} MiB, sha256 {sidecar.engine_sha256}",
        "built": f"{sidecar.built} in {bundle.manifest.stages[engine_stage(name)].seconds:.1f} s",
        "graph": f"{sidecar.precision}, sha256 {sidecar.graph_sha256}",
        "by": runtime + (f", CUDA {details['cuda_driver']}" if "cuda_driver" in details else ""),
        "for": f"{sidecar.device} ({' '.join(sidecar.device_features) or 'any'}), {sidecar.platform}, batch {batch}",
        "options": ", ".join(asked),
        "golden images": check if isinstance(check, str) else f"scores within {check:.1e} of the graph's, relative",
        "precision got": _precisions(sidecar.layers) or str(details.get("precision", "unknown")),
    }


def _precisions(layers: list[EngineLayer]) -> str:
    return ", ".join(f"{count} layers {precision}" for precision, count in count_precisions(layers).items())


def _write_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
