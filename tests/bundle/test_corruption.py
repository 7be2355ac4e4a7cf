"""A bundle damaged anywhere gives one clear error: no traceback, no hang, and no damaged byte reaches a parser."""

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from parts import Line

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.manifest import Manifest, manifest_to_json
from lrdan_edge.cli.console import terminal
from lrdan_edge.cli.main import cli
from lrdan_edge.engines import open as engines_module
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.golden import golden_frames
from lrdan_edge.engines.open import engines, open_engine
from lrdan_edge.engines.verify import verify_engine
from lrdan_edge.errors import LrdanError
from lrdan_edge.runtime.annotate import annotate
from lrdan_edge.runtime.inspector import Inspector

CORRUPTIONS = 1000
SEED = 20260101


@pytest.fixture(scope="module")
def built(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with an engine, for this module to damage and mend."""
    folder = tmp_path_factory.mktemp("corruption") / "bundle"
    bundle = Bundle.open(shutil.copytree(line.bundle, folder))
    build_engine(bundle, BuildRequest("int8", "onnxruntime"))
    return bundle


def corrupt(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one random kind of damage; never the same bytes."""
    place, span = rng.randrange(len(data)), rng.randrange(1, 65)
    ways: list[Callable[[], bytes]] = [
        lambda: data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :],
        lambda: data[:place],
        lambda: data[:place] + data[place + span :],
        lambda: data[:place] + rng.randbytes(span) + data[place:],
        lambda: data[:place] + bytes(span) + data[place + span :],
        lambda: data[:place] + data[place : place + span] * 2 + data[place + span :],
        lambda: rng.randbytes(span),
        lambda: data + data[:span],
        lambda: b"[" * 100_000 + data,
    ]
    while (damaged := rng.choice(ways)()) == data:
        place = rng.randrange(len(data))
    return damaged


def use_engine(folder: Path) -> None:
    bundle = Bundle.open(folder)
    open_engine(bundle, engines(bundle)[0])


def use_graph(folder: Path) -> None:
    build_engine(Bundle.open(folder), BuildRequest("int8", "onnxruntime"))


def use_fp16_graph(folder: Path) -> None:
    Inspector.open(folder, backend="onnxruntime", precision="fp16")


def use_decision(folder: Path) -> None:
    Inspector.open(folder, backend="onnxruntime")


def use_golden(folder: Path) -> None:
    golden_frames(Bundle.open(folder))


def use_weights(folder: Path) -> None:
    from lrdan_edge.model.deployed import load_network

    load_network(Bundle.open(folder))


def test_random_corruptions_give_one_clear_error_each(built: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "load_engine", lambda *_: pytest.fail("damaged bytes were loaded"))
    monkeypatch.setattr("lrdan_edge.backends.onnxruntime.optimise", lambda *_: pytest.fail("a damaged graph was parsed"))
    (engine,) = engines(built)
    victims = [
        ("manifest.json", use_engine),
        ("model.int8.onnx", use_graph),
        ("model.int8.cpu.onnx", use_graph),
        ("model.fp16.onnx", use_fp16_graph),
        ("decision.json", use_decision),
        ("golden/scores.json", use_golden),
        ("golden/00.png", use_golden),
        ("weights.safetensors", use_weights),
        (f"engines/{engine.name}.json", use_engine),
        (f"engines/{engine.name}", use_engine),
        (f"engines/{engine.name}.sig", use_engine),
    ]
    signature = built.path / f"engines/{engine.name}.sig"
    signature.write_bytes(signature.read_bytes().splitlines(keepends=True)[0])  # one that holds is enough: keep one only
    whole = {name: (built.path / name).read_bytes() for name, _ in victims}
    rng = random.Random(SEED)
    for number in range(CORRUPTIONS):
        name, use = victims[number % len(victims)]
        path = built.path / name
        damaged = corrupt(whole[name], rng)
        if path == signature and whole[name].strip() in damaged.split():
            continue  # one signature is whole still, and each stands for itself
        path.write_bytes(damaged)
        try:
            with pytest.raises(LrdanError) as refusal:
                use(built.path)
        finally:
            path.write_bytes(whole[name])
        said = " ".join(str(refusal.value).split())
        assert 20 < len(said) < 1000, f"corruption {number} of {name}: {said}"
        assert ":" in said, f"corruption {number} of {name} has no fix: {said}"
    assert engines(built)[0].unusable_reason is None, "restored, it runs again"


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: bytes([data[0] ^ 1]) + data[1:]])
@pytest.mark.parametrize("part", ["manifest", "graph", "sidecar", "engine"])
def test_every_command_reports_a_corrupt_bundle_in_one_line(
    built: Bundle, tmp_path: Path, part: str, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal(), "width", 500)  # so that no name is broken over lines
    folder = shutil.copytree(built.path, tmp_path / "bundle")
    (name,) = (engine.name for engine in engines(built))
    names = {
        "manifest": "manifest.json",
        "graph": "model.int8.onnx",
        "sidecar": f"engines/{name}.json",
        "engine": f"engines/{name}",
    }
    path = folder / names[part]
    path.write_bytes(damage(path.read_bytes()))

    def call(*words: object) -> Result:
        return CliRunner().invoke(cli, [*map(str, words), "-b", str(folder)])

    commands: dict[str, tuple[object, ...]] = {
        "list": ("engine", "list"),
        "inspect": ("engine", "inspect", name),
        "verify": ("engine", "verify"),
        "build": ("build-engine", "--int8", "--target", "onnxruntime"),
        "run": ("run", tmp_path, "--backend", "onnxruntime", "--int8"),
    }
    sees = {
        "manifest": set(commands),
        "graph": {"build"},
        "sidecar": {"list", "inspect", "verify", "run"},
        "engine": {"inspect", "verify", "run"},
    }[part]
    for title in sorted(sees, key=lambda title: title == "build"):  # a build mends
        result = call(*commands[title])
        assert result.exit_code == 1, f"{title}: {result.output}"
        assert isinstance(result.exception, SystemExit), f"{title}: {result.exception!r}"
        assert "Traceback" not in result.output
        assert str(path.name) in result.output, f"{title}: {result.output}"


def test_an_invalid_manifest_with_a_valid_checksum_gives_no_other_error(built: Bundle, tmp_path: Path) -> None:
    """Damage by a program that knows the checksum: values, not bytes, go wrong."""
    folder = shutil.copytree(built.path, tmp_path / "bundle")
    whole = json.loads((folder / "manifest.json").read_text())
    whole["model"]["geometry"] = {"frame": [32, 32], "region": [0, 0, 32, 32], "canvas": [32, 32], "tiles": [1, 1]}
    frame = np.zeros((32, 32), np.uint8)
    rng = random.Random(SEED)
    nonsense = ["", "\0", "../..", "x" * 300, 0, -1, 10**30, 1e308, None, [], {}, True, "NaN"]
    for number in range(400):
        fields = deepcopy(whole)
        parent = fields["model"]["geometry"] if number % 4 == 0 else fields["model"] if number % 4 == 1 else fields
        here, key = parent, rng.choice(list(parent))
        while isinstance(here[key], dict) and here[key] and rng.random() < 0.8:
            here, key = here[key], rng.choice(list(here[key]))
        if rng.random() < 0.3:
            here[rng.choice([str(value) for value in nonsense])] = here.pop(key)
        else:
            here[key] = rng.choice(nonsense)
        try:
            sealed = manifest_to_json(msgspec.convert(fields, Manifest))
        except (msgspec.ValidationError, TypeError, OverflowError):
            sealed = json.dumps(fields).encode()
        (folder / "manifest.json").write_bytes(sealed)
        with suppress(LrdanError):
            bundle = Bundle.open(folder)
            for engine in engines(bundle):
                verify_engine(bundle, engine.name)
            if number % 4 < 2:
                with Inspector.open(bundle, backend="onnxruntime", precision="fp32") as inspector:
                    (verdict,) = inspector.inspect(frame)
                annotate(frame, verdict)
                with Inspector.open(bundle, backend="torch") as inspector:
                    inspector.inspect(frame)
