"""Parts that are fetched when the tests run: unpacked once a machine, outside of the checkout, never vendored."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    return Path(os.environ.get("LRDAN_TEST_CACHE") or Path.home() / ".cache/lrdan-edge-tests")


def keep(name: str, fetch: Callable[[Path], str | None]) -> Path | str:
    """The folder `name` of the cache, or why it could not be had.

    Args:
        name: The folder's name, which says all that its contents depend on.
        fetch: Fills the folder given, where the cache lacks `name`; returns why it could not, or None. What it leaves
            half done is not kept.
    """
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        unpacked = Path(temporary) / "unpacked"
        unpacked.mkdir()
        if reason := fetch(unpacked):
            return reason
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.is_dir():  # another test run was faster
                raise
    return folder
