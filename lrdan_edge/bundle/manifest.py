"""The manifest (``manifest.json``): the detector's specification, every file's sha256, and a record of each stage."""

import hashlib
from typing import Any

import msgspec

from lrdan_edge.bundle.encoding import TRAIN_AGAIN, from_json, to_json
from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.errors import BundleError


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle file's sha256 (hex) and size in bytes."""

    sha256: str
    bytes: int


class StageRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The record of one stage.

    Attributes:
        finished: End of the stage in UTC (ISO 8601).
        seconds: Duration in seconds.
        command: The command that repeats it, without the bundle's path (bundles are copied).
        versions: Versions of Python and of the packages that made the files.
        inputs: Bundle files that it read, with their sha256 at that time.
        outputs: Bundle files that it wrote.
        options: The user's options.
        results: Measured values and automatic choices.
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
    """The manifest.

    It holds the sha256 of every other file, and its own in `checksum`; see `manifest_to_json`.
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
    """Serialise a manifest; its `Manifest.checksum` is the sha256 of these bytes with an empty checksum."""
    bare = to_json(msgspec.structs.replace(manifest, checksum=""))
    return _with_checksum(bare, "", hashlib.sha256(bare).hexdigest())


def sha256_of_manifest(manifest: Manifest) -> str:
    """Sha256 of the file of a manifest, in hex."""
    return hashlib.sha256(manifest_to_json(manifest)).hexdigest()


def manifest_from_json(data: bytes, name: str) -> Manifest:
    """Parse the output of `manifest_to_json`.

    Raises:
        BundleError: As `from_json`, or the bytes do not match the checksum.
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
