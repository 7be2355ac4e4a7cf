"""Sign a bundle, so that other machines can require the signature."""

import os
from pathlib import Path

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.files import MOST_JSON, Folder
from lrdan_edge.bundle.journal import MANIFEST, cannot_write, locked, parse_manifest, recover
from lrdan_edge.bundle.signature import write_signature
from lrdan_edge.bundle.verify import verify_bundle
from lrdan_edge.errors import BundleError


def sign_bundle(path: str | os.PathLike[str], key: str | os.PathLike[str]) -> str:
    """Sign a bundle as it is now; replaces an earlier signature.

    Every file is compared with the manifest first, so that nothing damaged is signed. An interrupted commit is finished.

    Args:
        path: The bundle's folder.
        key: A PEM file with an Ed25519 private key, such as `lrdan_edge.keys.new_key` makes.

    Returns:
        The public key, 64 hex digits.

    Raises:
        MissingStageError: There is no bundle at `path`.
        BundleError: A file is missing or does not match the manifest, or the bundle cannot be written.
        KeyFileError: The key cannot be used.
        MissingExtraError: The ``signing`` extra is not installed.
    """
    where = Bundle.open(path).path
    try:
        with Folder(where) as folder, locked(folder):
            recover(folder)
            data = folder.read(MANIFEST, MOST_JSON)  # these bytes are checked and signed, whatever lies there later
            for problem in verify_bundle(Bundle(where, parse_manifest(data, where / MANIFEST))).damaged.values():
                raise BundleError(f"a damaged bundle is not signed ({problem})")
            return write_signature(folder, data, Path(key))
    except OSError as error:
        raise cannot_write(where, error) from error
