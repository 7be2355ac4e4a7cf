"""Out-of-fold scores of the good images (``out-of-fold.json``), by recipes that are fitted in seconds.

The good images are divided into folds. The bundle's network is fitted without fold 0, which are the held-out images, and one more
network without each other fold. Every image is scored by the network that did not learn from its fold.
"""

import msgspec

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.encoding import TRAIN_AGAIN, from_json
from lrdan_edge.bundle.names import OUT_OF_FOLD
from lrdan_edge.errors import BundleError


class OutOfFold(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The scores of all good images, the held-out ones first and in the order of the manifest.

    Attributes:
        schema_version: The manifest's schema version.
        images: Paths of the images, relative to the data folder.
        scores: Scores in float32, each by the network that was fitted without the image's fold.
        folds: The fold of each image, from 0; fold 0 are the held-out images.
        groups: The group of each image, none of which is in two folds; None if unknown.
    """

    schema_version: int
    images: list[str]
    scores: list[float]
    folds: list[int]
    groups: list[int] | None

    @property
    def held_out(self) -> int:
        """Number of held-out images, which are the first."""
        return self.folds.count(0)


def read_out_of_fold(bundle: Bundle) -> OutOfFold | None:
    """Read a bundle's out-of-fold scores; None if it has none.

    Raises:
        ChangedFileError: The file is not the one in the manifest.
        BundleError: It cannot be read, or contradicts itself or the manifest.
    """
    if OUT_OF_FOLD not in bundle.manifest.files:
        return None
    path = str(bundle.path / OUT_OF_FOLD)
    found = from_json(bundle.read(OUT_OF_FOLD, Command("train")), OutOfFold, path)
    stage = bundle.manifest.stages.get("train")
    if wrong := _contradiction(found, stage.results.get("held_out") if stage else None):
        raise BundleError(f"{path} is not valid ({wrong})", "make the bundle again with '{train}'", train=TRAIN_AGAIN)
    return found


def _contradiction(found: OutOfFold, held_out: list[str] | None) -> str | None:
    n, m = len(found.images), found.held_out
    if not len(found.scores) == len(found.folds) == n or (found.groups is not None and len(found.groups) != n):
        return "its lists differ in length"
    if found.images[:m] != held_out or any(fold == 0 for fold in found.folds[m:]):
        return "its first images are not the held-out images"
    if m == 0 or len(set(found.folds)) < 2:
        return "it has fewer than two folds"
    if found.groups is not None and len(set(zip(found.groups, found.folds, strict=True))) > len(set(found.groups)):
        return "a group is in two folds"
    return None
