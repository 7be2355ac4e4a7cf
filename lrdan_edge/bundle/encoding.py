"""JSON with deterministic output and strict parsing.

Unknown keys, missing keys, wrong types and other schema versions are errors.
"""

from typing import Any, TypeVar

import msgspec

from lrdan_edge.bundle.command import Command
from lrdan_edge.errors import BundleError

SCHEMA_VERSION = 1
TRAIN_AGAIN = Command("train", overwrite=True)

MOST_SHOWN = 200
"""Most characters of an untrusted text in a message."""

MOST_LEVELS = 32
"""Most levels of objects and lists in a file; what lrdan-edge writes has fewer than 12."""

MOST_VALUES = 1 << 22
"""Most values in a file, so that a file of empty lists does not need a hundred times its size in memory."""

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
        raw = decode(data)
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version is not None and not is_our_version(version):
            raise BundleError(
                f"{name} has schema version {shown(repr(version))}, this lrdan-edge reads version {SCHEMA_VERSION}",
                "use the lrdan-edge release that wrote it, or make the bundle again with '{train}'",
                train=TRAIN_AGAIN,
            )
        return msgspec.convert(raw, kind)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{name} cannot be read ({shown(str(error))})",
            "restore it from a copy, or make the bundle again with '{train}'",
            train=TRAIN_AGAIN,
        ) from error


def shown(text: str) -> str:
    """An untrusted text as a message shows it: cut after `MOST_SHOWN` characters."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def decode(data: bytes) -> Any:
    """Parse JSON from an untrusted source: dicts, lists, strings, numbers, booleans and None.

    Raises:
        ValueError: The bytes are not valid JSON, or have more than `MOST_LEVELS` levels or `MOST_VALUES` values.
        RecursionError: They have so many levels that the parser stops.
    """
    if (values := sum(map(data.count, (b",", b"[", b"{")))) > MOST_VALUES:  # at least as many as there are
        raise ValueError(f"it has up to {values} values, more than {MOST_VALUES}")
    raw = msgspec.json.decode(data)
    level = [raw]
    for _ in range(MOST_LEVELS):
        nested = (value for value in level if isinstance(value, (dict, list)))
        level = [value for each in nested for value in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return raw
    raise ValueError(f"it has more than {MOST_LEVELS} levels")


def is_our_version(version: object) -> bool:
    """Whether a file's schema version is the one that this lrdan-edge reads; ``true`` and ``1.0`` are not."""
    return type(version) is int and version == SCHEMA_VERSION
