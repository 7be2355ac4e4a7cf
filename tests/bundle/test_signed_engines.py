"""Of a signed bundle, the engines that a device builds run by their own signatures, and nothing else that is newer counts."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parts import rewrite_manifest
from signing import decision_that_accepts_everything, lrdan, refused

from lrdan_edge import Bundle, Inspector
from lrdan_edge.bundle.files import sha256_of
from lrdan_edge.bundle.sign import sign_bundle
from lrdan_edge.engines import open as engines_module
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.open import engines

pytest.importorskip("cryptography")
pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_flushing")]


def built(bundle: Path, public: Path) -> str:
    """An engine that the device builds after the bundle was signed elsewhere."""
    name = build_engine(Bundle.open(bundle, require_signature=public), BuildRequest("fp32", "onnxruntime"))
    assert (bundle / "signed-manifest.json").exists()
    return name


def test_an_engine_built_after_signing_runs_by_its_own_signature(real: Path, key: Path, public: Path) -> None:
    before = Bundle.open(real).sha256
    name = built(real, public)
    bundle = Bundle.open(real, require_signature=public)
    assert bundle.sha256 == before != Bundle.open(real).sha256
    with Inspector.open(bundle, backend="onnxruntime", precision="fp32") as inspector:
        assert inspector.choice.engine == name
    evaluated = lrdan("bench", "-b", real, "--require-signature", public, "--seconds", 1, "--rounds", 3, "--batch", 1)
    assert evaluated.exit_code == 0, evaluated.output
    assert "removed" not in evaluated.output
    again = Bundle.open(real, require_signature=public)
    assert "reports/benchmark.json" not in again.manifest.files, "it was not signed, so it chooses nothing"
    sign_bundle(real, key)
    assert not (real / "signed-manifest.json").exists()
    assert "reports/benchmark.json" in Bundle.open(real, require_signature=public).manifest.files


def test_an_engine_of_another_graph_for_processors_is_not_loaded(real: Path, public: Path) -> None:
    """The int8 engine is built from a graph of its own, whose sha256 its sidecar did not hold: this machine signed the engine of an
    attacker's graph, and the graph that was signed lay in its place again afterwards."""
    path = real / "model.int8.cpu.onnx"
    original, manifest = path.read_bytes(), (real / "manifest.json").read_bytes()
    path.write_bytes(original.replace(b"main_graph", b"Main_graph") if b"main_graph" in original else original + b"\x12\x00")
    record = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    rewrite_manifest(real, lambda fields: fields["files"].update({"model.int8.cpu.onnx": record}))
    build_engine(Bundle.open(real), BuildRequest("int8", "onnxruntime"))
    path.write_bytes(original)
    (real / "signed-manifest.json").write_bytes(manifest)
    record = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    rewrite_manifest(real, lambda fields: fields["files"].update({"model.int8.cpu.onnx": record}))
    (engine,) = engines(Bundle.open(real, require_signature=public))
    assert engine.trust.trusted
    assert "was not built from the bundle's model.int8.cpu.onnx" in str(engine.unusable_reason)
    build_engine(Bundle.open(real, require_signature=public), BuildRequest("int8", "onnxruntime"))
    (engine,) = engines(Bundle.open(real, require_signature=public))
    assert engine.unusable_reason is None


def test_an_engine_from_elsewhere_is_not_loaded(
    real: Path, public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("LRDAN_ENGINE_KEY", str(tmp_path / "elsewhere/engine.key"))
        built(real, public)
    monkeypatch.setattr(engines_module, "load_engine", lambda *_: pytest.fail("loaded"))
    (foreign,) = engines(Bundle.open(real, require_signature=public))
    assert "did not build it" in str(foreign.unusable_reason)


def after_an_engine(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda bundle: rewrite_manifest(bundle, change)


CHANGES: dict[str, Callable[[Path], object]] = {
    "decision": decision_that_accepts_everything,
    "graph": after_an_engine(lambda manifest: manifest["files"]["model.fp32.onnx"].update(sha256="0" * 64)),
    "golden frames gone": after_an_engine(lambda manifest: manifest["files"].pop("golden/scores.json")),
    "kept manifest": lambda bundle: (
        (bundle / "signed-manifest.json").write_bytes((bundle / "manifest.json").read_bytes()) and None
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_after_an_engine_was_built_is_refused(real: Path, public: Path, change: Callable[[Path], object]) -> None:
    built(real, public)
    change(real)
    assert "changed after" in refused(real, public)


def test_of_a_newer_manifest_only_engines_count(real: Path, public: Path) -> None:
    """A decision beside an engine, other outputs and other inputs are an attacker's, since no stage that keeps a signature writes them."""
    name = built(real, public)
    plain = Bundle.open(real, require_signature=public).manifest

    def change(manifest: dict[str, Any]) -> None:
        record = manifest["stages"][f"build-engine {name}"]
        manifest["stages"] |= {
            f"decide {name}": record,
            "build-engine x.onnx.decision.json": record,
            "build-engine ../x.onnx": record,
        }
        manifest["files"][f"engines/{name}.decision.json"] = manifest["files"]["decision.json"]
        manifest["scoring"]["pooling"] = "mean"
        record["outputs"] = ["decision.json"]
        record["inputs"] |= {"decision.json": "0" * 64}

    rewrite_manifest(real, change)
    assert Bundle.open(real, require_signature=public).manifest == plain


def test_every_file_of_a_run_is_in_the_manifest(real: Path, public: Path) -> None:
    """What is opened in the bundle is the manifest, its signatures, or a file whose sha256 the manifest holds."""
    built(real, public)
    opened: set[str] = set()
    active = True

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event == "open":
            opened.add(str(arguments[0]))

    sys.addaudithook(note)
    result = lrdan("run", real / "golden", "-b", real, "--require-signature", public, "--fp32", "--backend", "onnxruntime")
    active = False
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(real, require_signature=public)
    names = {path.name for path in real.rglob("*") if path.is_file()}
    signatures = {
        "manifest.json",
        "manifest.sig",
        "signed-manifest.json",
        *(f"{engine.name}.sig" for engine in engines(bundle)),
    }
    covered = {name.rpartition("/")[2] for name in bundle.manifest.files}
    used = {Path(each).name for each in opened if Path(each).name in names}
    assert used - signatures <= covered
    assert "decision.json" in used
