"""Check whether training may replace an existing bundle."""

import os
from dataclasses import dataclass
from pathlib import Path

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.names import WEIGHTS
from lrdan_edge.errors import BundleError, MissingStageError

_FIX = "give {overwrite} to replace it when the new training is complete, or choose another {bundle}"


@dataclass(frozen=True)
class ExistingBundle:
    """A bundle that an earlier command left.

    Attributes:
        path: Its folder.
        what: A short description for messages.
        interrupted: Whether its training was interrupted, so that the same run may resume and replace it.
        run: Identifier of the run that trained it (`Checkpoint.run`), or None if unknown.
    """

    path: Path
    what: str
    interrupted: bool = False
    run: str | None = None

    def refused(self, why: str = "") -> BundleError:
        """The error for a training run that may not replace this bundle."""
        return BundleError(f"{self.path} already holds {self.what}{f', and {why}' if why else ''}", _FIX)


def require_room(path: Path, *, overwrite: bool) -> ExistingBundle | None:
    """The bundle that training at `path` would replace, or None; without `overwrite`, it must be of an interrupted run.

    Raises:
        BundleError: The bundle may not be replaced.
    """
    existing = _find(path)
    if existing and not overwrite and not existing.interrupted:
        raise existing.refused()
    return existing


def _find(path: Path) -> ExistingBundle | None:
    """The bundle at `path` if it has trained weights; an unreadable bundle counts as trained."""
    try:
        manifest = Bundle.open(path).manifest
    except MissingStageError:
        return None
    except BundleError:
        return ExistingBundle(path, f"a bundle that cannot be read ('{Command('info')}' says why)")
    stage = manifest.stages.get("train")
    if stage is None:
        there = WEIGHTS in manifest.files or os.path.lexists(path / WEIGHTS)
        return ExistingBundle(path, "trained weights") if there else None
    later = ", ".join(name for name in manifest.stages if name != "train")
    then = f"; then {later}" if later else ""
    if stage.results.get("interrupted") is True:
        what = f"the bundle of an interrupted training ({stage.finished}{then})"
        return ExistingBundle(path, what, True, stage.results.get("run"))
    return ExistingBundle(path, f"a trained bundle ({stage.finished}{then})")
