"""Which engines may be loaded: those that this machine built, that a trusted machine signed, or that the user accepted.

Loading an engine runs code from it, and a hash in a bundle proves nothing about who built it. So the builder signs each engine's
sidecar, which holds the engine's sha256. The signature file has one signature per line:

HEX                       HMAC with the key of a machine that built or accepted the engine; valid on that machine.
ed25519 PUBLIC SIGNATURE  Ed25519 by a build machine; valid on the machines that trust its public key.
"""

import re
from typing import NamedTuple

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.files import Folder
from lrdan_edge.bundle.names import ENGINES
from lrdan_edge.engines.keys import SIDECAR, is_signed_here, sign, sign_for_others, trusted_keys
from lrdan_edge.errors import BundleError, LrdanError
from lrdan_edge.keys import is_signed_by

_LINE = re.compile("[0-9a-f]{64}|ed25519 [0-9a-f]{64} [0-9a-f]{128}")


class Trust(NamedTuple):
    """Whether an engine may be loaded.

    Attributes:
        trusted: Whether it may.
        reason: Who signed it, or why it may not be loaded.
    """

    trusted: bool
    reason: str


def signature_of(name: str) -> str:
    """The name in the bundle of an engine's signature file. The manifest does not list this file."""
    return f"{ENGINES}/{name}.sig"


def signature_file(sidecar: bytes) -> bytes:
    """Sign an engine that was built here. Returns the contents of its signature file.

    Args:
        sidecar: The bytes of the engine's sidecar.

    Raises:
        EngineError: A key cannot be made or read, or others can read it.
    """
    lines = [sign(sidecar)]
    if signed := sign_for_others(sidecar):
        lines.append("ed25519 {} {}".format(*signed))
    return _written(lines)


def trust_in(bundle: Bundle, name: str, sidecar: bytes) -> Trust:
    """Whether the engine may be loaded here. Never raises an error: an engine that cannot be checked is not trusted.

    Args:
        bundle: The bundle.
        name: The engine's file name below ``engines/``.
        sidecar: The bytes of its sidecar.
    """
    try:
        lines = _lines(bundle, name)
        if any(is_signed_here(sidecar, line) for line in lines):
            return Trust(True, "signed on this machine")
        signed = [line.split()[1:] for line in lines if line.startswith("ed25519")]
        trusted = trusted_keys() if signed else set()
        for key, signature in signed:
            if key in trusted:
                if is_signed_by(sidecar, key, signature, SIDECAR):
                    return Trust(True, f"signed by trusted key {key}")
                return Trust(False, f"its signature by trusted key {key} is not valid: the engine was changed after signing")
    except LrdanError as error:
        return Trust(False, str(error))
    accept = Command("engine trust", name, sha256="HEX", bundle=bundle.path)
    return Trust(False, f"this machine did not build it, and engines are executable code ('{accept}' accepts this one)")


def accept(bundle: Bundle, name: str, sidecar: bytes) -> None:
    """Let this machine load an engine; keeps the engine's other signatures. The arguments are those of `trust_in`.

    Raises:
        EngineError: The key cannot be made or read, or others can read it.
        BundleError: The bundle cannot be written.
    """
    lines = [*_lines(bundle, name), sign(sidecar)]
    try:
        with Folder(bundle.path) as folder:
            folder.write(signature_of(name), _written(lines), shared=True)
    except OSError as error:
        path = bundle.path / signature_of(name)
        raise BundleError(f"{path} cannot be written ({error.strerror})", "check the bundle's permissions") from error


def _lines(bundle: Bundle, name: str) -> list[str]:
    """The signatures in an engine's signature file, without lines that are not signatures."""
    try:
        with Folder(bundle.path) as folder:
            lines = folder.read(signature_of(name)).decode("ascii", "replace").splitlines(keepends=True)
    except OSError:
        return []
    return [line[:-1] for line in lines if line.endswith("\n") and _LINE.fullmatch(line[:-1])]


def _written(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in dict.fromkeys(lines)).encode("ascii")
