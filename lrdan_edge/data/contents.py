"""The images of a folder sorted by the names of its folders, and refusals of what the names leave open."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from lrdan_edge.data.images import list_images
from lrdan_edge.data.listing import subfolders
from lrdan_edge.data.masks import masks_beside
from lrdan_edge.data.names import kind_of, label_in, meaning_of
from lrdan_edge.errors import DataError

EXPECTED = "only photos of good parts, or train/good, or folders such as OK and NG"
_SHOWN = 5

Folders = dict[str, list[Path]]
"""Images by the folder that holds them, relative to the data folder."""


@dataclass
class Contents:
    """The images below a folder, by what the names of their folders say.

    Attributes:
        folder: The folder.
        good: Images of good parts.
        bad: Images of defective parts.
        masks: Masks, in folders of their own.
        plain: Images whose folders say nothing about defects, such as lots.
        unknown: Images in folders of unknown meaning.
        beside: The masks that lie beside their images; they are in none of the other attributes.
    """

    folder: Path
    good: Folders = field(default_factory=dict)
    bad: Folders = field(default_factory=dict)
    masks: Folders = field(default_factory=dict)
    plain: Folders = field(default_factory=dict)
    unknown: Folders = field(default_factory=dict)
    beside: dict[Path, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Contents":
        """Sort all images below a folder; raises DataError if there are none."""
        images = list_images(folder)
        found = cls(folder, beside=masks_beside(images))
        masks = set(found.beside.values())
        for path in images:
            if path not in masks:
                place = path.parent.relative_to(folder)
                found._place(place).setdefault(place.as_posix(), []).append(path)
        return found

    def _place(self, place: PurePath) -> Folders:
        meanings = [meaning_of(name) for name in place.parts]
        for meaning, folders in (("mask", self.masks), ("bad", self.bad), ("good", self.good)):
            if meaning in meanings:
                return folders
        return self.unknown if None in meanings or "split" in meanings else self.plain

    @property
    def labelled(self) -> bool:
        """Whether the names of its folders tell good parts from defective ones."""
        return bool(self.good and self.bad and not self.plain and not self.unknown)

    @property
    def told_by_masks(self) -> bool:
        """Whether every image has a mask beside it, and no folder says what it shows."""
        own = images_of(self.plain) + images_of(self.unknown)
        return bool(own) and not (self.good or self.bad) and all(path in self.beside for path in own)

    def told(self, *parts: Folders) -> str:
        """The folders of these parts with their numbers of images, in words."""
        counts = [(name, len(paths)) for part in parts for name, paths in part.items()]
        shown = [f"{'the folder itself' if name == '.' else name} ({count})" for name, count in counts[:_SHOWN]]
        return ", ".join(shown) + (f", … ({len(counts)} folders)" if len(counts) > _SHOWN else "")

    @property
    def everything(self) -> str:
        """All folders with images, in words."""
        return self.told(self.plain, self.unknown, self.good, self.bad, self.masks)


def quoted(path: Path) -> str:
    """A path as a shell needs it."""
    return shlex.quote(str(path))


def images_of(folders: Folders) -> list[Path]:
    """All images of some folders, in their order."""
    return [path for paths in folders.values() for path in paths]


def refuse_unknown(found: Contents) -> None:
    """Check that images without a folder of good ones show good parts only, as far as names can say.

    Raises:
        DataError: A name says or may say otherwise.
    """
    data = found.folder
    if found.beside:
        raise DataError(
            f"{data} has a mask beside {len(found.beside)} of its images, so some show defects (found: {found.everything})",
            "move the good ones: type {lines}",
            lines=f"mkdir -p {quoted(data / 'good')}, then mv {quoted(data)}/IMAGE {quoted(data / 'good')} for each",
        )
    if found.bad or found.masks or found.good:
        others = found.told(found.plain, found.unknown)
        if not others:
            raise DataError(f"{data} has no image of a good part, only {found.everything}", "give {place}", place=EXPECTED)
        known = [found.told(part) for part in (found.good, found.bad, found.masks) if part]
        raise DataError(
            f"{data} has {' and '.join(known)} beside {others}, and nothing says which of the latter show good parts (expected: "
            f"{EXPECTED})",
            "if all of {others} do, type {lines}; if they show defects, move them into {bad}"
            if found.good
            else "if all do, type {lines}",
            lines=_moves(found, {**found.plain, **found.unknown}),
            others=others,
            bad=data / "bad",
        )
    if strange := _strange(found):
        raise DataError(
            f"{data} has folders of unknown meaning, {', '.join(strange[:_SHOWN])}{', …' if len(strange) > _SHOWN else ''} (found: "
            f"{found.everything}; expected: {EXPECTED})",
            "if all show good parts, type {lines}; if not, move only those that do",
            lines=_moves(found, {**found.plain, **found.unknown}),
        )
    labels = [label_in(path.stem) for path in images_of(found.plain) + images_of(found.unknown)]
    if "bad" in labels and len(set(labels)) > 1:
        bad = next(path for path in images_of(found.plain) + images_of(found.unknown) if label_in(path.stem) == "bad")
        raise DataError(
            f"{data} has {labels.count('bad')} images that by their names show defects, such as {bad.name}",
            "move the good ones: type {lines}",
            lines=f"mkdir {quoted(data / 'good')}, then mv {quoted(data)}/IMAGE {quoted(data / 'good')} for each",
        )


def refuse_several(found: Contents) -> None:
    """Check that a folder holds one data set, not several side by side.

    Raises:
        DataError: It holds several.
    """
    own = [folder.name for folder in subfolders(found.folder) if _is_data_set(folder)]
    heads = {PurePath(name).parts[0] for name in [*found.good, *found.bad] if name != "."}
    apart = sorted(name for name in heads if meaning_of(name) is None)
    if names := own or (apart if len(apart) > 1 else []):
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        one = found.folder / names[0]
        raise DataError(f"{found.folder} holds data sets ({shown}), not images of one kind of part", "give one, {one}", one=one)


def _is_data_set(folder: Path) -> bool:
    """Whether a folder has a part for training, or VisA's folders."""
    images = folder / "Data" / "Images"
    return any(meaning_of(path.name) == "good" for path in subfolders(folder / "train")) or (images / "Normal").is_dir()


def _strange(found: Contents) -> list[str]:
    """The folders that tell images apart in a way that is not known; lots, days and cameras do not count."""
    places = [PurePath(name).parts for name in [*found.plain, *found.unknown]]
    if split := {name for place in places for name in place if meaning_of(name) == "split"}:
        return sorted(split)
    strange = set()
    for place in places:
        for depth, name in enumerate(place):
            siblings = {other[depth : depth + 1] for other in places if other[:depth] == place[:depth]}
            kinds = {kind_of(other[0]) if other else None for other in siblings}  # a numbered series is one
            if siblings == {("0",), ("1",)} or (meaning_of(name) is None and len(kinds) > 1):
                strange.add("/".join(place[: depth + 1]))
                break
    return sorted(strange)


def _moves(found: Contents, folders: Iterable[str]) -> str:
    """The line of shell that moves folders (or the images of the folder itself) into ``good``."""
    data = found.folder
    suffixes = sorted({path.suffix for path in images_of(found.plain) if path.parent == data})
    files = [f"{quoted(data)}/*{suffix}" for suffix in suffixes]
    named = [quoted(data / name) for name in dict.fromkeys(PurePath(name).parts[0] for name in folders if name != ".")]
    good = quoted(data / "good")
    return f"mkdir -p {good} && mv {' '.join([*files, *named])} {good}"
