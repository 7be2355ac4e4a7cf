"""A required signature covers all that a run uses, whatever is changed, swapped or put in its place."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from parts import rewrite_manifest
from signing import decision_that_accepts_everything, lrdan, refused
from strangers import KINDS, Put, new_bundle, put_symlink, write_all

from lrdan_edge import Bundle, Inspector
from lrdan_edge.bundle import journal as journal_module
from lrdan_edge.bundle.files import sha256_of
from lrdan_edge.bundle.sign import sign_bundle
from lrdan_edge.bundle.signature import describe_signature
from lrdan_edge.data.images import read_image
from lrdan_edge.errors import BundleError, ChangedFileError, MissingExtraError
from lrdan_edge.keys import new_key
from lrdan_edge.runtime.identity import describe_run

pytest.importorskip("cryptography")
pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_flushing")]


@pytest.fixture
def signed(tmp_path: Path, key: Path) -> Path:
    """A small signed bundle whose files no runtime can use."""
    new_bundle(tmp_path / "b")
    sign_bundle(tmp_path / "b", key)
    return tmp_path / "b"


def signed_message(bundle: Path) -> bytes:
    return b"lrdan-edge bundle manifest\0" + (bundle / "manifest.json").read_bytes()


def test_cryptography_itself_verifies_the_file(signed: Path, public: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    kind, named, signature = (signed / "manifest.sig").read_text().split()
    owner = load_pem_public_key(public.read_bytes())
    assert isinstance(owner, Ed25519PublicKey)
    assert (kind, named) == ("ed25519", owner.public_bytes_raw().hex())
    owner.verify(bytes.fromhex(signature), signed_message(signed))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_keys_and_verifies_the_file(tmp_path: Path) -> None:
    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)

    openssl("genpkey", "-algorithm", "ed25519", "-out", "own")
    openssl("pkey", "-in", "own", "-pubout", "-out", "own.pub")
    (tmp_path / "own").chmod(0o600)
    new_bundle(tmp_path / "b")
    sign_bundle(tmp_path / "b", tmp_path / "own")
    (tmp_path / "message").write_bytes(signed_message(tmp_path / "b"))
    (tmp_path / "raw").write_bytes(bytes.fromhex((tmp_path / "b/manifest.sig").read_text().split()[2]))
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", "own.pub", "-rawin", "-in", "message", "-sigfile", "raw")
    assert Bundle.open(tmp_path / "b", require_signature=tmp_path / "own.pub").signed_by


def test_a_signed_bundle_opens_and_says_by_whom(signed: Path, public: Path) -> None:
    bundle = Bundle.open(signed, require_signature=public)
    assert bundle.signed_by == (signed / "manifest.sig").read_text().split()[1]
    assert bundle.sha256 == sha256_of(signed / "manifest.json")
    assert Bundle.open(signed).signed_by is None
    assert f"signature: by the key {bundle.signed_by}, valid" in lrdan("info", "-b", signed).output
    assert json.loads(lrdan("info", "--json", "-b", signed).output)["signature"] == f"by the key {bundle.signed_by}, valid"
    verified = lrdan("bundle", "verify", signed, "--public-key", public)
    assert (verified.exit_code, "by the required key" in verified.output) == (0, True), verified.output


def test_an_unsigned_bundle_is_refused(tmp_path: Path, public: Path) -> None:
    new_bundle(tmp_path / "b")
    assert "is not signed: sign it with 'lrdan-edge bundle sign --key KEY'" in refused(tmp_path / "b", public)
    assert "signature: none" in lrdan("info", "-b", tmp_path / "b").output
    assert lrdan("bundle", "verify", tmp_path / "b").exit_code == 0
    assert lrdan("bundle", "verify", tmp_path / "b", "--public-key", public).exit_code == 1


def test_another_key_is_refused(signed: Path, tmp_path: Path) -> None:
    assert "is signed by the key" in refused(signed, new_key(tmp_path / "other"))
    said = (signed / "manifest.sig").read_text().split()
    sign_bundle(signed, tmp_path / "other")
    forged = (signed / "manifest.sig").read_text().replace((signed / "manifest.sig").read_text().split()[1], said[1])
    (signed / "manifest.sig").write_text(forged)
    assert "was changed after it was signed" in refused(signed, tmp_path / "key.pub")


def test_a_recomputed_checksum_does_not_help(signed: Path, public: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["scoring"]["pooling"] = "mean"

    rewrite_manifest(signed, change)
    Bundle.open(signed)
    assert "was changed after it was signed" in refused(signed, public)
    assert "not valid" in lrdan("info", "-b", signed).output


def test_the_signature_of_an_engine_is_none_of_a_bundle(signed: Path, key: Path) -> None:
    from lrdan_edge.keys import sign_with

    line = "ed25519 {} {}\n".format(*sign_with(key, (signed / "manifest.json").read_bytes(), "engine sidecar"))
    (signed / "manifest.sig").write_text(line)
    assert "was changed after it was signed" in refused(signed, key.with_name("key.pub"))


GARBAGE = {
    "empty": b"",
    "garbage": b"\xff\x00" * 40,
    "without its end": b"ed25519 " + b"0" * 64 + b" " + b"0" * 128,
    "upper case": b"ed25519 " + b"A" * 64 + b" " + b"0" * 128 + b"\n",
    "two": (b"ed25519 " + b"0" * 64 + b" " + b"0" * 128 + b"\n") * 2,
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_no_signature(signed: Path, public: Path, data: bytes) -> None:
    (signed / "manifest.sig").write_bytes(data)
    assert "manifest.sig is not a signature" in refused(signed, public)
    assert "not valid" in describe_signature(signed)


@pytest.mark.parametrize("name", ["manifest.sig", "signed-manifest.json"])
@pytest.mark.parametrize("put", KINDS)
def test_no_other_kind_of_file_is_read_as_a_signature(signed: Path, public: Path, outside: Path, put: Put, name: str) -> None:
    rewrite_manifest(signed, lambda manifest: manifest.update(written_by="somebody"))
    (signed / name).unlink(missing_ok=True)
    put(signed / name, outside)
    assert "cannot be read" in refused(signed, public) or "was changed after it was signed" in refused(signed, public)
    assert "not valid" in lrdan("info", "-b", signed).output


def test_a_huge_signature_is_not_read(signed: Path, public: Path) -> None:
    os.truncate(signed / "manifest.sig", 1 << 40)
    assert "more than 1024" in refused(signed, public)


def test_a_journal_is_refused(signed: Path, public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_finish", lambda *_: None)  # as if it were killed there
    write_all(Bundle.open(signed))
    assert "has a journal" in refused(signed, public)
    assert "has a journal" in lrdan("info", "-b", signed).output


def test_without_the_extra_the_message_names_it(signed: Path, key: Path, public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    for work in (
        lambda: Bundle.open(signed, require_signature=public),
        lambda: sign_bundle(signed, key),
        lambda: new_key(key.with_name("new")),
    ):
        with pytest.raises(MissingExtraError, match=r"lrdan-edge\[signing\]"):
            work()
    assert "not checked (pip install 'lrdan-edge[signing]')" in lrdan("info", "-b", signed).output


def test_a_damaged_bundle_is_not_signed(tmp_path: Path, key: Path) -> None:
    new_bundle(tmp_path / "b")
    (tmp_path / "b/decision.json").write_bytes(b"[]")
    with pytest.raises(BundleError, match="a damaged bundle is not signed"):
        sign_bundle(tmp_path / "b", key)
    assert not (tmp_path / "b/manifest.sig").exists()


def test_signing_replaces_a_link_and_not_its_target(signed: Path, key: Path, outside: Path) -> None:
    (signed / "manifest.sig").unlink()
    put_symlink(signed / "manifest.sig", outside)
    before = (outside / "file").read_bytes()
    sign_bundle(signed, key)
    assert not (signed / "manifest.sig").is_symlink()
    assert (outside / "file").read_bytes() == before


def test_a_stage_that_changes_what_judges_removes_the_signature(signed: Path, public: Path) -> None:
    with Bundle.open(signed).stage("decide", command="lrdan-edge calibrate") as stage:
        stage.path("decision.json").write_bytes(b"{}")
    assert "is not signed" in refused(signed, public)


def test_a_new_threshold_for_an_engine_removes_the_signature(signed: Path, public: Path) -> None:
    with Bundle.open(signed).stage("decide e.onnx", command="lrdan-edge calibrate") as stage:
        stage.path("engines/e.onnx.decision.json").write_bytes(b"{}")
    assert "is not signed" in refused(signed, public)


def test_a_failed_stage_keeps_the_signature(signed: Path, public: Path) -> None:
    with pytest.raises(ZeroDivisionError), Bundle.open(signed).stage("decide", command="lrdan-edge calibrate"):
        raise ZeroDivisionError
    assert Bundle.open(signed, require_signature=public).signed_by


def test_the_command_says_that_it_removed_the_signature(real: Path) -> None:
    good = real / "golden"
    words = ["calibrate", "--decision-only", "--good", good, "--false-reject-rate", "0.2", "-b", real]
    result = lrdan(*words)
    assert result.exit_code == 0, result.output
    assert f"its signature was removed: sign it again with 'lrdan-edge bundle sign {real} --key KEY'" in result.output
    assert "signature was removed" not in lrdan(*words).output, "there was none"


def test_a_run_uses_what_was_signed(real: Path, public: Path) -> None:
    frames = [read_image(path) for path in sorted((real / "golden").glob("*.png"))]
    with Inspector.open(real, require_signature=public, backend="onnxruntime") as inspector:
        assert {verdict.outcome for verdict in inspector.inspect(frames)} == {"good"}
    result = lrdan("run", real / "golden", "-b", real, "--require-signature", public, "--backend", "onnxruntime")
    assert result.exit_code == 0, result.output
    (real / "manifest.sig").unlink()
    assert lrdan("run", real / "golden", "-b", real, "--require-signature", public).exit_code == 1
    with pytest.raises(ValueError, match=r"give require_signature to Bundle\.open"):
        Inspector.open(Bundle.open(real), require_signature=public)


def test_a_bundle_swapped_after_it_was_opened_is_not_used(real: Path, public: Path) -> None:
    bundle = Bundle.open(real, require_signature=public)
    decision_that_accepts_everything(real)
    with pytest.raises(ChangedFileError, match=r"decision\.json was changed"):
        Inspector.open(bundle, backend="onnxruntime")


def test_the_manifest_that_was_checked_is_the_one_that_is_used(
    real: Path, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swapped while the signature is checked: before, between and after every read of the folder."""
    from lrdan_edge.bundle.files import Folder

    whole = {path.name: path.read_bytes() for path in real.iterdir() if path.is_file()}
    read, reads, swap_at = Folder.read, 0, 0

    def swapping(self: Folder, name: str, *rest: Any, **given: Any) -> bytes:
        nonlocal reads
        reads += 1
        if reads == swap_at:
            decision_that_accepts_everything(real)
        return read(self, name, *rest, **given)

    monkeypatch.setattr(Folder, "read", swapping)
    for place in range(1, 8):
        reads, swap_at = 0, place
        for name, data in whole.items():
            (real / name).write_bytes(data)
        try:
            with Inspector.open(real, require_signature=public, backend="onnxruntime") as inspector:
                assert inspector.thresholder.threshold < 1e29
        except BundleError:
            continue


def test_the_record_of_a_run_names_the_manifest_that_is_used(real: Path) -> None:
    """It was read again by its path, whatever lay there then: a FIFO held up the run."""
    before = sha256_of(real / "manifest.json")
    with Inspector.open(real, backend="onnxruntime") as inspector:
        (real / "manifest.json").unlink()
        os.mkfifo(real / "manifest.json")
        told = describe_run("x", inspector)["bundle"]
    assert told == {"path": str(real), "sha256": before[:16]}


REQUIRING = {
    "run": ["run", "golden"],
    "evaluate": ["evaluate", "golden"],
    "explain": ["explain", "golden"],
    "bench": ["bench"],
    "build-engine": ["build-engine", "--fp32"],
    "engine verify": ["engine", "verify"],
    "engine refit": ["engine", "refit", "x"],
}


@pytest.mark.parametrize("words", REQUIRING.values(), ids=REQUIRING)
def test_every_command_that_judges_or_builds_can_require_a_signature(
    signed: Path, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(signed)
    result = lrdan(*words, "-b", signed, "--require-signature", new_key(tmp_path / "other"))
    assert result.exit_code == 1
    assert "is signed by the key" in result.output


def test_verify_fails_for_a_damaged_or_stale_bundle(signed: Path, public: Path) -> None:
    (signed / "decision.json").write_bytes(b"[]")
    result = lrdan("bundle", "verify", signed, "--public-key", public)
    assert (result.exit_code, "decision.json was changed" in result.output) == (1, True)
