"""What the commands do with a bundle, each as one call, and the bundles that ``tests/bundle/fuzz_bundles.py`` mutates."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
from click.testing import CliRunner
from earlier import unpack
from parts import rewrite_manifest
from strangers import new_bundle

from lrdan_edge import Bundle, Inspector
from lrdan_edge.bundle import journal
from lrdan_edge.bundle.benchmark_report import BenchmarkEntry, BenchmarkReport
from lrdan_edge.bundle.encoding import SCHEMA_VERSION, to_json
from lrdan_edge.bundle.names import BENCHMARK, DECISION
from lrdan_edge.bundle.out_of_fold import read_out_of_fold
from lrdan_edge.bundle.sign import sign_bundle
from lrdan_edge.bundle.signature import describe_signature
from lrdan_edge.bundle.verify import verify_bundle
from lrdan_edge.calibration.device import fit_thresholds, last_target
from lrdan_edge.cli.main import cli
from lrdan_edge.data.images import read_image
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.open import engine_names
from lrdan_edge.engines.verify import verify_engine
from lrdan_edge.evaluation.evaluate import evaluate
from lrdan_edge.keys import new_key
from lrdan_edge.runtime.explain import explain
from lrdan_edge.runtime.verdict import Verdict

Use = Callable[[Path], object]


def make_bases(folder: Path) -> None:
    """Make ``bases/signed``, ``engine`` (built after signing) and ``interrupted`` (killed in a commit), keys and images."""
    bases, data = folder / "bases", folder / "data"
    (folder / "keys").mkdir(exist_ok=True)
    if not (folder / "keys/key").exists():
        new_key(folder / "keys/key")
    whole = unpack(folder)
    good = read_image(whole / "golden/00.png")
    rng = np.random.default_rng(0)
    for index in range(12):
        for name, noise in (("other/good", 2.0), ("test/good", 2.0), ("test/defect", 60.0)):
            path = data / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = np.clip(good + rng.normal(0, noise, good.shape), 0, 255).astype(np.uint8)
            assert cv2.imwrite(str(path), image)
    rewrite_manifest(whole, lambda manifest: manifest["stages"]["train"]["results"].update(data=str(data)))
    target = replace(last_target(Bundle.open(whole), data / "other/good"), false_reject_rate=0.2)
    build_engine(Bundle.open(whole), BuildRequest("int8", "onnxruntime"))
    fit_thresholds(Bundle.open(whole), target, good=data / "other/good")
    entry = BenchmarkEntry(title="onnxruntime int8", batch=1, latency_ms={"p50": 1.0}, frames_per_s=1.0, speedup=None, calls=1)
    report = BenchmarkReport(
        schema_version=SCHEMA_VERSION,
        machine="x",
        cores=1,
        versions={},
        command="x",
        rounds=3,
        entries=[entry],
        not_measured=[],
    )
    with Bundle.open(whole).stage("bench", command="lrdan-edge bench") as stage:
        stage.path(BENCHMARK).write_bytes(to_json(report))
    sign_bundle(whole, folder / "keys/key")
    shutil.copytree(whole, bases / "signed")
    build_engine(Bundle.open(whole), BuildRequest("fp32", "onnxruntime"))
    shutil.copytree(whole, bases / "engine")
    decision = Bundle.open(whole).read(DECISION, "x")
    options = Bundle.open(whole).manifest.stages["decide"].options
    with patch.object(journal, "_finish"), Bundle.open(whole).stage("decide", command="x", options=options) as stage:
        stage.path(DECISION).write_bytes(decision)
        stage.path("engines/new.onnx").write_bytes(b"engine")
        stage.unlisted_path("engines/new.onnx.sig").write_bytes(b"signature")
    shutil.copytree(whole, bases / "interrupted")


class Uses:
    """What is done with a bundle. None may raise anything but an `LrdanError`, or touch what is not the bundle's.

    Attributes:
        usual: Done with every bundle.
        rare: One of them is done with every bundle, since they take longer.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._public = folder, folder / "keys/key.pub"
        base = folder / "bases/signed"
        self._frame = read_image(base / "golden/00.png")
        self._expected = self._judged(
            Inspector.open(base, require_signature=self._public, backend="onnxruntime", precision="fp32")
        )
        self.usual: dict[str, Use] = {
            "verify": lambda path: verify_bundle(Bundle.open(path)),
            "signature": describe_signature,
            "run": lambda path: self._judged(Inspector.open(path, backend="onnxruntime")),
            "run signed": self._run_signed,
        }
        self.rare: dict[str, Use] = {
            "info": lambda path: _command("info", "-b", path),
            "info as JSON": lambda path: _command("info", "--json", "-b", path),
            "bundle verify": lambda path: _command("bundle", "verify", path, "--public-key", self._public),
            "engine list": lambda path: _command("engine", "list", "-b", path),
            "engine inspect": _inspect_engines,
            "calibrate --show": lambda path: _command("calibrate", "--show", "-b", path),
            "engine verify": _verify_engines,
            "run fp16": lambda path: self._judged(Inspector.open(path, precision="fp16")),
            "run openvino": lambda path: self._judged(Inspector.open(path, backend="openvino", precision="int8")),
            "run torch": lambda path: self._judged(Inspector.open(path, backend="torch")),
            "explain": lambda path: explain(Bundle.open(path), [folder / "data/test/good/0.png"], folder / "aside/page.html"),
            "evaluate": lambda path: evaluate(Bundle.open(path), folder / "data", backend="onnxruntime", write=False),
            "calibrate": self._decide,
            "out-of-fold": lambda path: read_out_of_fold(Bundle.open(path)),
            "build-engine": lambda path: build_engine(Bundle.open(path), BuildRequest("fp32", "onnxruntime")),
            "sign": lambda path: sign_bundle(path, folder / "keys/key"),
            "train": new_bundle,
        }

    def all(self) -> dict[str, Use]:
        """Every use."""
        return {**self.usual, "stage": _write_report, **self.rare}

    def some(self, rng: random.Random) -> dict[str, Use]:
        """The uses for one bundle: those that only read come first."""
        rare = rng.choices(list(self.rare), k=1 if rng.random() < 0.7 else 0)
        stage: dict[str, Use] = {"stage": _write_report, "open again": Bundle.open}
        return {**self.usual, **{name: self.rare[name] for name in rare}, **stage}

    def _judged(self, inspector: Inspector) -> Verdict:
        with inspector:
            return inspector.inspect([self._frame])[0]

    def _run_signed(self, path: Path) -> None:
        found = self._judged(Inspector.open(path, require_signature=self._public, backend="onnxruntime", precision="fp32"))
        expected = self._expected
        assert found.score is not None
        assert expected.score is not None
        same = abs(found.score - expected.score) <= 1e-3 * abs(expected.score)
        assert same, f"score {found.score}, {expected.score} was signed"
        assert (found.threshold, found.p_value) == (expected.threshold, expected.p_value)

    def _decide(self, path: Path) -> None:
        bundle, good = Bundle.open(path), self._folder / "data/other/good"
        fit_thresholds(bundle, last_target(bundle, good), good=good)


def _inspect_engines(path: Path) -> None:
    for name in engine_names(Bundle.open(path)):
        _command("engine", "inspect", name, "-b", path)


def _verify_engines(path: Path) -> None:
    bundle = Bundle.open(path)
    for name in engine_names(bundle):
        verify_engine(bundle, name)


def _write_report(path: Path) -> None:
    with Bundle.open(path).stage("bench", command="lrdan-edge bench") as stage:
        stage.path("reports/benchmark.md").write_bytes(b"# Report")


def _command(*words: object) -> None:
    """Run a command that exits 0, or 1 with a message without control codes."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1), result.output
    assert all(char.isprintable() or char == "\n" for char in result.output), repr(result.output)
