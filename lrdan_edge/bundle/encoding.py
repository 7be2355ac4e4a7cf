"""JSON with deterministic output and strict parsing.

Unknown keys, missing keys, wrong types and other schema versions are errors.
"""

from typing import TypeVar

import msgspec

from lrdan_edge.bundle.command import Command
from lrdan_edge.errors import BundleError

SCHEMA_VERSION = 1
TRAIN_AGAIN = Command("train", overwrite=True)

T = TypeVar("T")


def to_json(value: object) -> bytes:
    """Serialise to indented, newline-terminated JSON (UTF-8)."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def from_json(data: bytes, kind: type[T], name: str) -> T:
    """Parse JSON strictly into `kind`.

    Args:
        data: The file's bytes.
        kind: The msgspec type expected.
        name: The file's name for messages.

    Raises:
        BundleError: The bytes are not valid JSON, or do not have this type or schema version.
    """
    try:
        raw = msgspec.json.decode(data)
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version is not None and version != SCHEMA_VERSION:
            raise BundleError(
                f"{name} has schema version {version!r}, this lrdan-edge reads version {SCHEMA_VERSION}",
                "use the lrdan-edge release that wrote it, or make the bundle again with '{train}'",
                train=TRAIN_AGAIN,
            )
        return msgspec.convert(raw, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{name} cannot be read ({error})",
            "restore it from a copy, or make the bundle again with '{train}'",
            train=TRAIN_AGAIN,
        ) from error
