"""The signature of a bundle (``manifest.sig``): Ed25519 over the bytes of the manifest, which holds every other file's sha256.

The file is one line, ``ed25519 PUBLIC SIGNATURE`` in hex. Signed are the bytes ``lrdan-edge bundle manifest``, a null byte, and the
manifest. A stage that changes what affects verdicts removes the signature. A stage that writes only reports or an engine, as a device
does, keeps the signed bytes in ``signed-manifest.json``. They then count, and of the newer manifest only the engines: each has a
signature of its own (`lrdan_edge.engines.trust`), and is compared with the graph that was signed.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.files import MOST_JSON, Folder
from lrdan_edge.bundle.journal import JOURNAL, MANIFEST, State, parse_manifest, snapshot
from lrdan_edge.bundle.manifest import Manifest
from lrdan_edge.bundle.names import ENGINES, SIGNATURE, SIGNED_MANIFEST, affects_verdicts, engine_stage, graph_name
from lrdan_edge.bundle.spec import PRECISIONS
from lrdan_edge.errors import BundleError, SignatureError
from lrdan_edge.keys import ed25519, is_signed_by, sign_with

_PURPOSE = "bundle manifest"
_LINE = re.compile(rb"ed25519 ([0-9a-f]{64}) ([0-9a-f]{128})\n")
_ENGINE = re.compile(r"[A-Za-z0-9][\w.-]{0,200}\.(plan|blob|onnx)", re.ASCII)


class Signature(NamedTuple):
    """A signature in a bundle.

    Attributes:
        public_key: The key that it says it is by, 64 hex digits.
        signature: 128 hex digits.
    """

    public_key: str
    signature: str


def read_signed_state(folder: Folder, key: str) -> State:
    """The part of a bundle's manifest that the owner of a key signed, and its engines.

    Args:
        folder: The bundle.
        key: The public key, 64 hex digits.

    Raises:
        SignatureError: There is no such signature, or a commit was interrupted.
        BundleError: A manifest is damaged.
        OSError: A manifest cannot be read.
    """
    journal, current = snapshot(folder)
    if journal is not None:
        raise SignatureError(
            f"{folder.path} has a journal ({JOURNAL}) of an interrupted commit, which no signature covers",
            "run the interrupted command again; if that was not 'build-engine', 'evaluate' or 'bench', sign the bundle again",
        )
    if current is None:
        return State(None, frozenset(), "")
    signature = read_signature(folder)
    if signature.public_key != key:
        raise SignatureError(
            f"{folder.path} is signed by the key {signature.public_key}, not by the required {key}",
            "use a bundle that the owner of the required key signed",
        )
    signed = _signed_bytes(folder, signature, current)
    if signed is None:
        raise SignatureError(
            f"{folder.path} was changed after it was signed",
            "restore it from a copy, or sign it again with '{sign}'",
            sign=_SIGN,
        )
    found = parse_manifest(signed, folder.path / (MANIFEST if signed is current else SIGNED_MANIFEST))
    if signed is not current:
        found = _with_engines(folder.path, found, parse_manifest(current, folder.path / MANIFEST))
    return State(found, frozenset(), hashlib.sha256(signed).hexdigest())


def read_signature(folder: Folder) -> Signature:
    """The bundle's signature, which has still to be checked.

    Raises:
        SignatureError: There is none, or its file is not one that lrdan-edge writes.
    """
    where = folder.path / SIGNATURE
    try:
        data = folder.read(SIGNATURE, most=1024)
    except FileNotFoundError:
        raise SignatureError(f"{folder.path} is not signed", "sign it with '{sign}'", sign=_SIGN) from None
    except OSError as error:
        raise SignatureError(
            f"{where} cannot be read ({error.strerror})", "sign the bundle with '{sign}'", sign=_SIGN
        ) from error
    found = _LINE.fullmatch(data)
    if found is None:
        raise SignatureError(f"{where} is not a signature", "sign the bundle with '{sign}'", sign=_SIGN)
    return Signature(found[1].decode(), found[2].decode())


def describe_signature(path: Path) -> str:
    """Say in a few words whether a bundle is signed and by which key. Nobody is trusted for that: the key may be anyone's."""
    try:
        with Folder(path) as folder:
            if not folder.has(SIGNATURE):
                return "none"
            public_key = read_signature(folder).public_key
            if ed25519() is None:
                return f"by the key {public_key}, not checked (pip install 'lrdan-edge[signing]')"
            read_signed_state(folder, public_key)
    except (BundleError, OSError) as error:
        return f"not valid: {error}"
    return f"by the key {public_key}, valid"


def write_signature(folder: Folder, data: bytes, key: Path) -> str:
    """Sign a bundle's manifest. The caller holds the lock.

    Args:
        folder: The bundle.
        data: The bytes of its manifest.
        key: A PEM file with an Ed25519 private key.

    Returns:
        The public key, 64 hex digits.

    Raises:
        KeyFileError: The key cannot be used.
        MissingExtraError: The ``signing`` extra is not installed.
        OSError: The bundle cannot be written.
    """
    public_key, signature = sign_with(key, data, _PURPOSE)
    folder.remove(SIGNED_MANIFEST)  # of an earlier signature
    folder.write(SIGNATURE, f"ed25519 {public_key} {signature}\n".encode("ascii"))
    return public_key


def _signed_bytes(folder: Folder, signature: Signature, current: bytes) -> bytes | None:
    """The manifest that the signature is of: the current one, or the one that later stages kept; None if it is of neither."""
    if is_signed_by(current, *signature, _PURPOSE):
        return current
    try:
        kept = folder.read(SIGNED_MANIFEST, MOST_JSON)
    except OSError:
        return None
    return kept if is_signed_by(kept, *signature, _PURPOSE) else None


def _with_engines(path: Path, signed: Manifest, current: Manifest) -> Manifest:
    """The signed manifest with the engines that were built since; everything else must be as it was signed."""
    if changed := next(
        (name for name in signed.files if affects_verdicts(name) and current.files.get(name) != signed.files[name]), None
    ):
        raise SignatureError(
            f"{path / changed} was changed after the bundle was signed",
            "restore the bundle from a copy, or sign it again with '{sign}'",
            sign=_SIGN,
        )
    files, stages, prefix = dict(signed.files), dict(signed.stages), engine_stage("")
    graphs = {graph_name(precision) for precision in PRECISIONS}
    for stage, record in current.stages.items():
        name = stage.removeprefix(prefix)
        if name == stage or not _ENGINE.fullmatch(name):
            continue
        made = [f"{ENGINES}/{name}", f"{ENGINES}/{name}.json"]
        inputs = {graph: sha256 for graph, sha256 in record.inputs.items() if graph in graphs}
        files |= {each: current.files[each] for each in made if each in current.files}
        stages[stage] = msgspec.structs.replace(record, inputs=inputs, outputs=made)
    return msgspec.structs.replace(signed, files=files, stages=stages)


_SIGN = Command("bundle sign", key="KEY")
