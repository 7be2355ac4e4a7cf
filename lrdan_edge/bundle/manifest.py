"""The manifest (``manifest.json``): what the bundle's detector is, every file's sha256, and what each stage did."""

import hashlib
from typing import Any

import msgspec

from lrdan_edge.bundle.encoding import TRAIN_AGAIN, from_json, to_json
from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.errors import BundleError


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle: its sha256 (hex) and its size in bytes."""

    sha256: str
    bytes: int


class StageRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one stage did.

    Attributes:
        finished: When, in UTC (ISO 8601).
        seconds: How long it took.
        command: The command that repeats it, without the bundle's path (bundles are copied).
        versions: Versions of Python and of the packages that made the files.
        inputs: Files of the bundle it read, with their sha256 then.
        outputs: Files of the bundle it wrote.
        options: What the user asked for.
        results: What came out: figures, choices made.
    """

    finished: str
    seconds: float
    command: str
    versions: dict[str, str]
    inputs: dict[str, str]
    outputs: list[str]
    options: dict[str, Any]
    results: dict[str, Any]


class Manifest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The whole manifest; see the module's and each part's description.

    Every other file's sha256 is in it, and its own in `checksum`: see `manifest_to_json`.
    """

    schema_version: int
    written_by: str
    model: ModelSpec
    preprocessing: Preprocessing
    scoring: Scoring
    files: dict[str, FileRecord]
    stages: dict[str, StageRecord]
    checksum: str = ""


def manifest_to_json(manifest: Manifest) -> bytes:
    """Serialise a manifest, with the sha256 of these same bytes, checksum empty, as its `Manifest.checksum`."""
    bare = to_json(msgspec.structs.replace(manifest, checksum=""))
    return _with_checksum(bare, "", hashlib.sha256(bare).hexdigest())


def manifest_from_json(data: bytes, name: str) -> Manifest:
    """Parse what `manifest_to_json` wrote.

    Raises:
        BundleError: As `from_json`, or a byte was changed since.
    """
    manifest = from_json(data, Manifest, name)
    bare = _with_checksum(data, manifest.checksum, "")
    if hashlib.sha256(bare).hexdigest() != manifest.checksum:
        raise BundleError(
            f"{name} was changed after it was written",
            "restore it from a copy, or make the bundle again with '{train}'",
            train=TRAIN_AGAIN,
        )
    return manifest


def _with_checksum(data: bytes, old: str, new: str) -> bytes:
    head, field, tail = data.rpartition(f'"checksum": "{old}"'.encode())
    return head + (f'"checksum": "{new}"'.encode() if field else b"") + tail
