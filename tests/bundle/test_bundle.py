import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import rewrite_manifest, snapshot
from read_only import read_only
from strangers import GRAPH, deploy_graph

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import from_json
from lrdan_edge.bundle.files import sha256_of
from lrdan_edge.bundle.journal import LOCK
from lrdan_edge.bundle.manifest import Manifest, manifest_from_json
from lrdan_edge.bundle.names import TIMING_CACHE
from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.errors import BundleError, ChangedFileError, MissingStageError, StaleStageError

MODEL = ModelSpec(
    recipe="lrdan", height=32, width=32, channels=1, base_channels=8, latent_channels=4, downsamplings=2, decoder="resize"
)
PREPROCESSING = Preprocessing(colour="grey", resize="area", scale=2 / 255, offset=-1.0)
SCORING = Scoring(normalise=True, smoothing_sigma=2.0, pooling="max")


def commit(bundle: Bundle, name: str, files: dict[str, bytes], inputs: tuple[str, ...] = ()) -> None:
    paths = {key: bundle.file(key, "x") for key in inputs}
    with bundle.stage(name, command=f"lrdan-edge {name}", inputs=paths) as stage:
        for key, data in files.items():
            stage.path(key).write_bytes(data)
        stage.results["files"] = len(files)


def new_bundle(folder: Path, weights: bytes = b"weights") -> Bundle:
    bundle = Bundle.create(folder, MODEL, PREPROCESSING, SCORING)
    commit(bundle, "train", {"weights.safetensors": weights})
    return bundle


def test_a_stage_can_be_read_back(tmp_path: Path) -> None:
    new_bundle(tmp_path / "b")
    again = Bundle.open(tmp_path / "b")
    path = again.file("weights.safetensors", "lrdan-edge train")
    assert path.read_bytes() == b"weights"
    assert again.manifest.model == MODEL
    record = again.manifest.stages["train"]
    assert record.results == {"files": 1}
    assert record.versions["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_missing_bundle_names_its_command(tmp_path: Path) -> None:
    with pytest.raises(MissingStageError, match="lrdan-edge train DATA"):
        Bundle.open(tmp_path / "nothing")


def test_missing_stage_names_its_command(tmp_path: Path) -> None:
    with pytest.raises(MissingStageError, match="lrdan-edge export"):
        new_bundle(tmp_path / "b").graph("fp32")


@pytest.mark.parametrize("change", [b"Weights", b"", b"weights+"])
def test_a_changed_file_is_refused(tmp_path: Path, change: bytes) -> None:
    bundle = new_bundle(tmp_path / "b")
    (tmp_path / "b" / "weights.safetensors").write_bytes(change)
    with pytest.raises(ChangedFileError, match="changed after it was made"):
        bundle.file("weights.safetensors", "lrdan-edge train")
    (tmp_path / "b" / "weights.safetensors").unlink()
    with pytest.raises(ChangedFileError, match="cannot be read"):
        bundle.file("weights.safetensors", "lrdan-edge train")


def test_staleness_follows_the_chain(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    commit(bundle, "export", {"model.fp32.onnx": GRAPH}, ("weights.safetensors",))
    commit(bundle, "calibrate", {"decision.json": b"{}"}, ("model.fp32.onnx",))
    assert bundle.staleness("calibrate") is None
    commit(bundle, "train", {"weights.safetensors": b"new weights"})
    assert bundle.staleness("export") == "weights.safetensors is newer"
    assert bundle.staleness("calibrate") == "weights.safetensors is newer"
    with pytest.raises(StaleStageError, match=r"run 'lrdan-edge export --bundle .*' again"):
        bundle.graph("fp32")
    commit(bundle, "export", {"model.fp32.onnx": deploy_graph(b"new")}, ("weights.safetensors",))
    assert bundle.staleness("export") is None
    assert bundle.staleness("calibrate") == "model.fp32.onnx is newer"


def test_a_copied_bundle_names_commands_with_its_new_path(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "workstation")
    commit(bundle, "export", {"model.fp32.onnx": GRAPH}, ("weights.safetensors",))
    commit(bundle, "train", {"weights.safetensors": b"new weights"})
    copy = Bundle.open(bundle.path.rename(tmp_path / "jetson"))
    with pytest.raises(StaleStageError, match=f"run 'lrdan-edge export --bundle {copy.path}' again"):
        copy.graph("fp32")


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt, OSError(28, "No space left on device", "x")])
def test_a_failed_stage_changes_nothing(tmp_path: Path, failure: type[BaseException] | OSError) -> None:
    bundle = new_bundle(tmp_path / "b")
    before = {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()}

    def fail() -> None:
        with bundle.stage("export", command="x") as stage:
            stage.path("model.fp32.onnx").write_bytes(b"\x08half")
            raise failure

    with pytest.raises((ZeroDivisionError, KeyboardInterrupt, BundleError)):
        fail()
    assert {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()} == before


KILLED = """
import os, sys
from pathlib import Path
from lrdan_edge.bundle.bundle import Bundle
left = int(sys.argv[2])
def counted(real):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return real(*args, **kwargs)
    return call
for name in ("replace", "fsync", "unlink", "rename"):
    setattr(os, name, counted(getattr(os, name)))
bundle = Bundle.open(sys.argv[1])
with bundle.stage("train", command="x") as stage:
    stage.path("weights.safetensors").write_bytes(b"new weights")
    stage.path("reports/training.json").write_bytes(b"[]")
"""


def test_a_stage_killed_at_any_point_leaves_the_old_or_the_new_bundle(tmp_path: Path) -> None:
    outcomes = []
    for steps in range(40):
        folder = tmp_path / str(steps)
        new_bundle(folder, b"old weights")
        killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(steps)], check=False).returncode
        left = snapshot(folder)
        again = Bundle.open(folder)
        for name in again.manifest.files:
            again.file(name, "lrdan-edge train")
        assert snapshot(folder) == left, "reading wrote something"
        data = again.read("weights.safetensors", "lrdan-edge train")
        assert data == again.file("weights.safetensors", "lrdan-edge train").read_bytes()
        assert data in (b"old weights", b"new weights")
        assert ("reports/training.json" in again.manifest.files) is (data == b"new weights")
        commit(again, "export", {"model.fp32.onnx": GRAPH}, ("weights.safetensors",))
        assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == [".lock"]
        outcomes.append((killed, data))
        if killed == 0:
            break
    assert outcomes[0] == (9, b"old weights")
    assert (9, b"new weights") in outcomes, "no kill fell between journal and end"
    assert outcomes[-1] == (0, b"new weights")


def test_time_before_the_stage_counts_if_started_is_given(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    with bundle.stage("build-engine e", command="x", started=time.monotonic() - 60):
        pass
    assert 60 <= bundle.manifest.stages["build-engine e"].seconds < 90


def test_two_writers_cannot_write_at_once(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    with bundle.stage("export", command="x"), pytest.raises(BundleError, match="another lrdan-edge command"):
        commit(Bundle.open(tmp_path / "b"), "bench", {"reports/x.json": b"{}"})


def test_a_writer_keeps_what_another_writer_added(tmp_path: Path) -> None:
    first = new_bundle(tmp_path / "b")
    second = Bundle.open(tmp_path / "b")
    commit(first, "export", {"model.fp32.onnx": GRAPH})
    commit(second, "bench", {"reports/x.json": b"{}"})
    assert {"export", "bench"} <= set(Bundle.open(tmp_path / "b").manifest.stages)


def test_a_stage_run_again_removes_files_it_no_longer_writes(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    commit(bundle, "bench", {"reports/a.json": b"{}", "reports/b.json": b"{}"})
    commit(bundle, "bench", {"reports/a.json": b"{}"})
    assert "reports/b.json" not in bundle.manifest.files


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    new_bundle(tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"schema_version": 2, "unknown": True}))
    with pytest.raises(BundleError, match="schema version 2, this lrdan-edge reads version 1"):
        Bundle.open(tmp_path / "b")
    path.write_text(json.dumps(manifest | {"surprise": 1}))
    with pytest.raises(BundleError, match="surprise"):
        Bundle.open(tmp_path / "b")


def test_a_manifest_must_not_name_files_outside_the_bundle(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    (tmp_path / "secret").write_bytes(b"weights")
    rewrite_manifest(bundle.path, lambda manifest: manifest["files"].update({"../secret": {"sha256": "0", "bytes": 7}}))
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.open(bundle.path)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_as_manifest_give_one_clear_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        from_json(data, Manifest, "manifest.json")


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_corrupted_manifest_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "corrupt"
    if not folder.exists():
        new_bundle(folder)
    whole = (folder / "manifest.json").read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    assert manifest_from_json(whole, "manifest.json")
    with pytest.raises(BundleError):
        manifest_from_json(bytes(damaged), "manifest.json")


def test_a_file_is_read_once_and_checked(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    assert bundle.read("weights.safetensors", "x") == (tmp_path / "b/weights.safetensors").read_bytes()
    (tmp_path / "b/weights.safetensors").write_bytes(b"other")
    with pytest.raises(ChangedFileError, match="changed after it was made"):
        bundle.read("weights.safetensors", "x")
    rewrite_manifest(bundle.path, lambda manifest: manifest["files"].update({"a\0b": {"sha256": "0", "bytes": 7}}))
    with pytest.raises(ChangedFileError, match="cannot be read"):
        Bundle.open(bundle.path).read("a\0b", "x")


def test_a_new_model_makes_the_old_models_stages_stale(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    commit(bundle, "export", {"model.fp32.onnx": GRAPH}, ("weights.safetensors",))
    commit(bundle, "calibrate", {"decision.json": b"{}"}, ("model.fp32.onnx",))
    again = new_bundle(tmp_path / "b", b"other weights")
    assert set(again.manifest.stages) == {"train", "export", "calibrate"}
    with pytest.raises(
        StaleStageError, match=r"calibrate in .* is stale .*run 'lrdan-edge export --bundle .*' again, then calibrate"
    ):
        again.decision()


def test_a_new_model_is_written_despite_an_unreadable_journal(tmp_path: Path) -> None:
    """The message said to make the bundle anew, and that failed in the same way."""
    bundle = new_bundle(tmp_path / "bundle")
    (bundle.path / ".journal.json").write_text("{")
    with pytest.raises(BundleError):
        Bundle.open(bundle.path)
    again = new_bundle(tmp_path / "bundle", b"other weights")
    assert Bundle.open(again.path).file("weights.safetensors", "").read_bytes() == b"other weights"


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"thesis\.txt"):
        Bundle.create(tmp_path, MODEL, PREPROCESSING, SCORING)
    with pytest.raises(BundleError, match="is a file"):
        Bundle.create(tmp_path / "thesis.txt", MODEL, PREPROCESSING, SCORING)


def test_internal_files_of_a_bundle_are_not_foreign(tmp_path: Path) -> None:
    for name in (LOCK, TIMING_CACHE):
        (tmp_path / name).write_bytes(b"")
    new_bundle(tmp_path)


def test_a_read_only_folder_is_reported(tmp_path: Path) -> None:
    bundle = new_bundle(tmp_path / "b")
    with read_only(bundle.path), pytest.raises(BundleError, match=r"cannot be written \(Permission denied: .*check its perm"):
        commit(bundle, "export", {"model.fp32.onnx": b"\x08"})


def test_sha256_matches_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(os.urandom(3 << 20))
    said = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout.split()[0]
    assert sha256_of(path) == said
