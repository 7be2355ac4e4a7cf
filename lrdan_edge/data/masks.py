"""Masks of defects: found beside an image or in folders of masks, whatever their suffix and usual ending."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from lrdan_edge.data.images import natural_key
from lrdan_edge.data.listing import SUFFIXES
from lrdan_edge.data.names import label_in, meaning_of

ENDINGS = (
    "_mask",
    "",
    "_gt",
    "-mask",
    "-gt",
    "_groundtruth",
    "_ground_truth",
    "_label",
    "_seg",
    "_segmentation",
    " mask",
    ".mask",
)
BEGINNINGS = ("mask_", "gt_")


class MaskFinder:
    """Finds the mask of an image in a folder by its name; each folder is read once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Path]] = {}

    def find(self, folder: Path, image: Path) -> Path | None:
        """The mask of `image` directly in `folder`, which may be the image's own; None if there is none."""
        known = self._folders.get(folder)
        if known is None:
            files = folder.iterdir() if folder.is_dir() else ()
            known = self._folders[folder] = by_stem(
                path for path in files if path.suffix.lower() in SUFFIXES and path.is_file()
            )
        found = (known.get(name) for name in names_of_masks(image))
        return next((path for path in found if path and path != image), None)


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """The files by their stem in lower case; of several with one stem, PNG comes first."""
    known: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (path.suffix.lower() != ".png", natural_key(path))):
        known.setdefault(path.stem.lower(), path)
    return known


def names_of_masks(image: Path) -> list[str]:
    """The stems in lower case that a mask of `image` may have, the most usual first."""
    stems = [image.stem.lower(), image.name.lower()]
    return [name for stem in stems for name in (*(stem + end for end in ENDINGS), *(begin + stem for begin in BEGINNINGS))]


def masks_beside(images: Sequence[Path]) -> dict[Path, Path]:
    """The mask of each image that has one in its own folder (``part.jpg`` and ``part_mask.png``), among these files."""
    folders: dict[Path, list[Path]] = {}
    for path in images:
        folders.setdefault(path.parent, []).append(path)
    found: dict[Path, Path] = {}
    for paths in folders.values():
        known = by_stem(paths)
        if not any(_marked_as_mask(stem) for stem in known):
            continue
        for image in paths:
            own = image.stem.lower()
            if mask := next((known[name] for name in names_of_masks(image) if name != own and name in known), None):
                found[image] = mask
    return {image: mask for image, mask in found.items() if image not in set(found.values())}


def masks_among(data: Path, images: Sequence[Path], masks: Sequence[Path]) -> dict[Path, Path]:
    """The mask of each image among `masks` of other folders below `data`: by name, and not from the folder of another kind."""
    known: dict[str, list[Path]] = {}
    for mask in masks:
        known.setdefault(mask.stem.lower(), []).append(mask)
    found = {}
    for image in images:
        folders = {name.lower() for name in image.relative_to(data).parent.parts}
        for name in names_of_masks(image):
            own = [mask for mask in known.get(name, ()) if _kinds_of(mask.relative_to(data).parent) <= folders]
            if own:
                found[image] = max(own, key=lambda mask: len(folders & {name.lower() for name in mask.parent.parts}))
                break
    return found


def _kinds_of(folder: Path) -> set[str]:
    """The names of a mask's folders that say for which images it is: not ``masks``, nor ``defects``."""
    return {name.lower() for name in folder.parts if meaning_of(name) != "mask" and label_in(name) != "bad"}


def _marked_as_mask(stem: str) -> bool:
    return any(end and stem.endswith(end) for end in ENDINGS) or stem.startswith(BEGINNINGS)
