"""What the command line can do, the Python API can do too: every command stands here with the calls that do the same."""

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import click
import pytest

from lrdan_edge.cli.main import cli

API: dict[str, list[str]] = {
    "dataset check": ["data.check.check"],
    "train": ["train.trainer.train", "train.trainer.TrainOptions", "train.view.View"],
    "export": ["export.graph.export"],
    "calibrate": ["calibration.calibrate.calibrate", "calibration.device.fit_thresholds", "calibration.device.last_target"],
    "build-engine": [
        "engines.build.build_engine",
        "engines.build.BuildRequest",
        "engines.tensorrt.options.BuildOptions",
        "bundle.bundle.Bundle.open",
    ],
    "engine list": ["engines.open.engine_names", "engines.open.engine"],
    "engine inspect": ["engines.open.engine"],
    "engine verify": ["engines.verify.verify_engine", "bundle.bundle.Bundle.open"],
    "engine trust": ["engines.open.trust_engine", "engines.keys.trust_key"],
    "engine refit": ["engines.build.refit_engine", "bundle.bundle.Bundle.open"],
    "camera probe": ["runtime.sources.open_source", "runtime.sources.probe.probe"],
    "camera record": ["runtime.sources.open_source", "runtime.sources.record.record"],
    "run": [
        "runtime.loop.opening.open_sources",
        "runtime.inspector.Inspector.open",
        "runtime.inspector.Inspector.require_gpu",
        "runtime.sources.open_source",
        "runtime.sources.signal_monitor.Limits",
        "runtime.loop.InspectionLoop",
        "runtime.recorded_run.RecordedRun",
        "runtime.rule.Rule",
        "runtime.sinks.notify.open_notifiers",
    ],
    "evaluate": ["evaluation.evaluate.evaluate", "bundle.bundle.Bundle.open"],
    "explain": ["runtime.explain.explain", "bundle.bundle.Bundle.open"],
    "bench": ["bench.latency.bench", "bundle.bundle.Bundle.open"],
    "protocol": ["protocol.readers.read_dataset", "protocol.protocol.run_protocol", "protocol.protocol.ProtocolOptions"],
    "bundle new-key": ["keys.new_key"],
    "bundle sign": ["bundle.sign.sign_bundle"],
    "bundle verify": ["bundle.verify.verify_bundle", "bundle.bundle.Bundle.open"],
    "info": [
        "bundle.verify.verify_bundle",
        "bundle.signature.describe_signature",
        "engines.open.engines",
        "backends.processor.processor",
    ],
    "demo": ["cli.demo.run_demo"],
}

OTHER_NAMES = {
    "bundle_path": "bundle",
    "run: min_area": "min_pixels",
    "run: require_gpu": "self",  # a method of the inspector
    "bundle new-key: key": "path",
    "bundle verify: public_key": "require_signature",
    "camera probe: source": "uri",
    "camera record: source": "uri",
    "camera record: every": "every_s",
    "run: sources": "uris",
    "protocol: dataset": "name",
    "protocol: detectors": "study",
    "protocol: labelled_ratio": "study",
    "protocol: ablate": "study",
    "protocol: dual_readings": "study",
}
"""Parameters of commands that the API calls otherwise."""

CHOOSES_A_CALL = {"calibrate: decision_only", "calibrate: show_only", "camera probe: picture"}
"""Options that choose between calls, or write what a call returns."""


def commands(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def resolve(name: str) -> Any:
    """What a dotted name below ``lrdan_edge`` stands for."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["lrdan_edge", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                break
            found = getattr(found, part)
        else:
            if callable(found):
                return found
    raise LookupError(f"lrdan_edge.{name} does not exist")


def parameters(call: Any) -> set[str]:
    if dataclasses.is_dataclass(call):
        return {field.name for field in dataclasses.fields(call)}
    return set(inspect.signature(call).parameters)


def test_every_command_has_a_call() -> None:
    assert sorted(name for name, _ in commands()) == sorted(API)


@pytest.mark.parametrize("name", API)
def test_a_call_takes_what_the_command_takes(name: str) -> None:
    known = {parameter for call in API[name] for parameter in parameters(resolve(call))} | {"bundle"}
    wanted = {}
    for parameter in dict(commands())[name].params:
        own = f"{name}: {parameter.name}"
        if parameter.name != "as_json" and own not in CHOOSES_A_CALL:
            wanted[own] = OTHER_NAMES.get(own, OTHER_NAMES.get(str(parameter.name), str(parameter.name)))
    assert {own for own, called in wanted.items() if called not in known} == set()


@pytest.mark.parametrize("name", sorted(API.keys() - {"demo"}))
def test_the_command_makes_its_call(name: str) -> None:
    """The module of the command imports it, so that the table cannot name a function that nobody uses."""
    callback = dict(commands())[name].callback
    assert callback is not None
    source = inspect.getsource(importlib.import_module(inspect.unwrap(callback).__module__))
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert f"lrdan_edge.{API[name][0]}" in imported
