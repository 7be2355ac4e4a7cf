"""What a stranger's bundle may cost: files and JSON that are too large, deep or wide are refused before they are read."""

import json
import os
import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from strangers import ENGINE, FILES, new_bundle, tried

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.decision import Decision
from lrdan_edge.bundle.encoding import from_json, to_json
from lrdan_edge.bundle.engine_sidecar import EngineSidecar
from lrdan_edge.bundle.files import Folder
from lrdan_edge.bundle.journal import JOURNAL, MANIFEST, Journal
from lrdan_edge.bundle.manifest import FileRecord, Manifest, manifest_from_json, manifest_to_json
from lrdan_edge.bundle.verify import verify_bundle
from lrdan_edge.errors import BundleError

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_flushing")]

HUGE = 1 << 42


@pytest.mark.parametrize("name", FILES)
def test_a_huge_file_that_the_manifest_vouches_for_is_not_read(tmp_path: Path, name: str) -> None:
    bundle = new_bundle(tmp_path / "b")
    os.truncate(bundle.path / name, HUGE)  # sparse: it takes no room
    bundle.manifest.files[name] = FileRecord("0" * 64, HUGE)
    (bundle.path / MANIFEST).write_bytes(manifest_to_json(bundle.manifest))
    for use in (Bundle.file, Bundle.read):
        with pytest.raises(BundleError, match="has 4398046511104 bytes in the manifest, at most"):
            use(Bundle.open(bundle.path), name, "x")
    assert set(verify_bundle(Bundle.open(bundle.path)).damaged) == {name}


@pytest.mark.parametrize("name", [MANIFEST, JOURNAL, f"{ENGINE}.sig"])
def test_a_huge_file_that_no_manifest_lists_is_not_read(tmp_path: Path, name: str) -> None:
    bundle = new_bundle(tmp_path / "b")
    (bundle.path / name).touch()
    os.truncate(bundle.path / name, HUGE)
    with Folder(bundle.path) as folder, pytest.raises(OSError, match="it has 4398046511104 bytes, more than"):
        folder.read(name)
    said = tried(lambda: Bundle.open(bundle.path))
    assert (said is None) == (name == f"{ENGINE}.sig")


def test_a_file_that_grows_while_it_is_read_is_read_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    fstat = os.fstat
    with Folder(tmp_path) as folder:

        def as_before_it_grew(descriptor: int) -> os.stat_result:
            now = list(fstat(descriptor))
            now[6] = 10
            return os.stat_result(now)

        monkeypatch.setattr(os, "fstat", as_before_it_grew)
        with pytest.raises(OSError, match="it has 51 bytes, more than 50"):
            folder.read("file", 50)


LEVELS = [33, 200, 800, 900, 950, 1000, 1100]  # around Python's recursion limit a value may be read but not written


def sealed(fields: dict[str, object]) -> bytes:
    """A manifest whose checksum is right, whatever is in it."""
    bare = json.dumps(fields | {"checksum": ""}, indent=2).encode() + b"\n"
    return bare.replace(b'"checksum": ""', b'"checksum": "' + sha256(bare).hexdigest().encode() + b'"')


@pytest.mark.parametrize("levels", LEVELS)
def test_deep_json_gives_one_clear_error(tmp_path: Path, levels: int) -> None:
    bundle = new_bundle(tmp_path / "b")
    whole = (bundle.path / MANIFEST).read_bytes()
    text = "[" * levels + "]" * levels

    def nested(data: bytes, key: str) -> bytes:
        fields = json.loads(data)
        target = fields["manifest"] if key == "journal" else fields
        target["stages"]["train"]["options"]["x"] = "NESTED"
        raw = sealed(fields) if key == "manifest" else json.dumps(fields).encode()
        return raw.replace(b'"NESTED"', text.encode())

    raw = nested(whole, "manifest")
    checksum = json.loads(nested(whole, "manifest").replace(text.encode(), b"0"))["checksum"].encode()
    bare = raw.replace(checksum, b"")
    (bundle.path / MANIFEST).write_bytes(raw.replace(checksum, sha256(bare).hexdigest().encode()))
    said = tried(lambda: Bundle.open(bundle.path))
    assert said is not None
    assert "level" in said or "recursion" in said
    (bundle.path / MANIFEST).write_bytes(whole)
    journal = Journal(replaces=sha256(whole).hexdigest(), staged={}, manifest=manifest_from_json(whole, MANIFEST))
    (bundle.path / JOURNAL).write_bytes(nested(to_json(journal), "journal"))
    for use in (lambda: Bundle.open(bundle.path), lambda: write(bundle)):
        said = tried(use)
        assert said is not None
        assert "is not the journal of a commit to this bundle" in said
    with pytest.raises(BundleError, match=r"level|recursion"):
        from_json(b'{"schema_version": 1, "graphs": ' + text.encode() + b"}", Decision, "decision.json")


def write(bundle: Bundle) -> None:
    with bundle.stage("bench", command="x") as stage:
        stage.path("reports/benchmark.json").write_bytes(b"{}")


def test_wide_json_does_not_need_a_hundred_times_its_size() -> None:
    data = b'{"schema_version": 1, "graphs": [' + b"[]," * 5_000_000 + b"0]}"
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="values, more than"):
            from_json(data, Decision, "decision.json")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("version", ["true", "1.0", "2", '"1"', "1e0", "[1]"])
def test_another_schema_version_is_refused_however_it_is_written(tmp_path: Path, version: str) -> None:
    bundle = new_bundle(tmp_path / "b")
    whole = (bundle.path / MANIFEST).read_bytes()

    def changed(data: bytes) -> bytes:
        assert data.count(b'"schema_version": 1') == 1
        return data.replace(b'"schema_version": 1', b'"schema_version": ' + version.encode())

    kinds: list[Callable[[], object]] = [
        lambda: from_json(b'{"schema_version": ' + version.encode() + b', "graphs": {}}', Decision, "decision.json"),
        lambda: from_json(b'{"schema_version": ' + version.encode() + b"}", EngineSidecar, "sidecar"),
        lambda: from_json(changed(whole), Manifest, MANIFEST),
    ]
    for use in kinds:
        with pytest.raises(BundleError, match="has schema version"):
            use()
    journal = Journal(replaces=sha256(whole).hexdigest(), staged={}, manifest=manifest_from_json(whole, MANIFEST))
    (bundle.path / JOURNAL).write_bytes(changed(to_json(journal)))
    with pytest.raises(BundleError, match="is not the journal of a commit to this bundle"):
        Bundle.open(bundle.path)
