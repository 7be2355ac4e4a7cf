"""The files below a folder: images, what computers leave behind, and files of other kinds, which are counted.

Linked folders are followed. A folder that is reached twice is read once, by its own path if it has one below the folder.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_LEFT_BEHIND = frozenset(
    {
        "$recycle.bin",
        "#recycle",
        "#snapshot",
        "@eadir",
        "@recycle",
        "__macosx",
        "__pycache__",
        "desktop.ini",
        "ehthumbs.db",
        "icon\r",
        "lost+found",
        "system volume information",
        "thumbs.db",
    }
)
_SHOWN = 4
_BIG_TIFF = 43


@dataclass
class Listing:
    """The files below a folder.

    Attributes:
        images: Files with the suffix of an image.
        left_behind: Names of files and folders that computers leave behind or hide, with their numbers; they are skipped.
        others: Suffixes of the other files, with their numbers.
        again: Linked folders that lead to a folder that is read anyway, or back to one above.
    """

    images: list[Path] = field(default_factory=list)
    left_behind: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    again: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> "Listing":
        """List all files below a folder; raises OSError if one of the folders cannot be read."""
        found = cls()
        seen = set(folder.resolve().parents)
        folders, linked = [folder], list[Path]()
        while folders or linked:
            place = folders.pop() if folders else linked.pop(0)
            if (own := place.resolve()) in seen:
                found.again.append(place)
                continue
            seen.add(own)
            with os.scandir(place) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                    found._sort(entry, place / entry.name, folders, linked)
        return found

    def _sort(self, entry: "os.DirEntry[str]", path: Path, folders: list[Path], linked: list[Path]) -> None:
        if is_left_behind(entry.name) or entry.name.startswith("."):
            self.left_behind["._*" if entry.name.startswith("._") else entry.name] += 1
        elif entry.is_dir():
            (linked if entry.is_symlink() else folders).append(path)
        elif not entry.is_file():
            self.others["broken links" if entry.is_symlink() else "special files"] += 1
        elif path.suffix.lower() in SUFFIXES:
            self.images.append(path)
        else:
            self.others[path.suffix.lower() or "no suffix"] += 1


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is one that systems and programs leave behind: ``Thumbs.db``, ``._x.png``, ``@eaDir``."""
    return name.lower() in _LEFT_BEHIND or name.startswith(("._", ".DS_Store", ".Trash", ".ipynb_checkpoints"))


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in a folder, by name, without those that computers leave behind; empty if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".") and not is_left_behind(path.name)
    )


def listing_notes(folder: Path) -> list[str]:
    """What was not read below a folder, one sentence each; empty if it is not a folder.

    Raises:
        OSError: One of the folders cannot be read.
    """
    if not os.path.isdir(folder):  # noqa: PTH112 - False for what is no path at all, such as a camera's pipeline
        return []
    found = Listing.of(folder)
    lines = []
    if found.left_behind:
        lines.append(f"skipped below {folder}, as left behind by a computer or hidden: {_counted(found.left_behind)}")
    if found.again:
        lines.append(f"linked folders below {folder} that lead to a folder that is read anyway are skipped: {found.again[0]}")
    if found.others:
        lines.append(f"{found.others.total()} files below {folder} are not images and are not read: {_counted(found.others)}")
    tiffs = [path for path in found.images if path.suffix.lower() in (".tif", ".tiff")]
    if several := [path for path in tiffs if has_pages(path)]:
        lines.append(
            f"{len(several)} TIFF files below {folder} have several pages, and only the first is read, as of {several[0]}"
        )
    return lines


def has_pages(path: Path) -> bool:
    """Whether a TIFF file has more than one page: its first directory names a second (TIFF 6.0, section 2; BigTIFF)."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
            order: Literal["little", "big"] = "little" if start.startswith(b"II") else "big"
            big = int.from_bytes(start[2:4], order) == _BIG_TIFF
            place, count, entry, width = (start[8:16], 8, 20, 8) if big else (start[4:8], 2, 12, 4)
            file.seek(int.from_bytes(place, order))
            file.seek(entry * int.from_bytes(file.read(count), order), os.SEEK_CUR)
            return any(file.read(width))
    except (OSError, OverflowError, ValueError):  # it is not a TIFF file; reading it says so
        return False


def _counted(numbers: Counter[str]) -> str:
    shown = [f"{name} ({count})" for name, count in sorted(numbers.items(), key=lambda one: (-one[1], one[0]))[:_SHOWN]]
    return ", ".join(shown) + (f", … ({numbers.total()} in all)" if len(numbers) > _SHOWN else "")
