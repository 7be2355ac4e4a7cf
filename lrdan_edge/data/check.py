"""Dataset check: finds near-copies, formats that differ by class, and too few images, which make results misleading."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from lrdan_edge.bundle.command import Command
from lrdan_edge.data.dataset import HELD_OUT_FRACTION, GoodImages, LabelledImage
from lrdan_edge.data.grouping import AUTO
from lrdan_edge.data.images import list_images
from lrdan_edge.data.layout import good_part, labelled_part, tested_part, unmatched_masks
from lrdan_edge.data.listing import listing_notes
from lrdan_edge.data.mask_check import mask_notes
from lrdan_edge.data.report import FolderReport, NearCopyReport, describe_folder, describe_near_copies
from lrdan_edge.data.scan import Scan
from lrdan_edge.errors import DataError

FEW = 100  # good training images: fewer show too little of the normal variation
SIZES_APART = 1.25  # largest ratio of two folders' median sides without a warning
PROMISE = 0.02  # the default false-reject rate of calibrate


class DatasetReport(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a data folder, with warnings.

    Attributes:
        data: The data folder.
        folders: Its image folders, good ones first.
        copies: Near-copies among the good images.
        warnings: Problems that make results misleading, one sentence each, with a fix.
    """

    data: str
    folders: list[FolderReport]
    copies: NearCopyReport
    warnings: list[str]


def check(data: Path) -> DatasetReport:
    """Check every image of a data folder.

    Args:
        data: A plain folder of good images, or a layout of `lrdan_edge.data.dataset`.

    Raises:
        DataError: No good image can be decoded.
    """
    good, others, masks = _folders(data)
    scan = Scan()
    folders = [describe_folder(name, paths, scan) for name, paths in {**good, **others}.items()]
    if all(len(folder.broken) == folder.images for folder in folders[: len(good)]):
        raise DataError(f"{data} has no good image that can be decoded", "replace them")
    copies = describe_near_copies(good, scan, data)
    first = folders[0]
    held_out = len(good.get("calibration/good", []))
    warnings = [across_warning(pair, count) for pair, count in copies.across.items()]
    if copies.images[first.name] and not held_out:
        warnings.append(inside_warning(copies.images[first.name], first.images, data))
    warnings += [
        *listing_notes(data),
        *good_part(data).notes,
        *turned_notes(folders),
        *form_warnings(folders),
        *size_warnings(folders),
        *count_warnings(first.images, held_out),
    ]
    if others:
        warnings += _mask_notes(data, [path for paths in others.values() for path in paths], masks, scan)
    return DatasetReport(data=str(data), folders=folders, copies=copies, warnings=warnings)


def training_notes(data: Path, images: GoodImages, scan: Scan) -> list[str]:
    """Warnings before training on these images, one sentence each.

    Checks the training and held-out images, and ``test/good`` if it exists.

    Args:
        data: The data folder.
        images: The folder's good images, split.
        scan: Scans the images that were not scanned before.

    Raises:
        DataError: A good image cannot be decoded.
    """
    scan.require([*images.training, *images.held_out])
    drawn = not (data / "calibration" / "good").is_dir()
    folders = {"training": images.training, "held-out": images.held_out}
    if drawn and images.groups is None:
        folders = {"train/good": [*images.training, *images.held_out]}
    if (data / "test" / "good").is_dir():
        folders["test/good"] = list_images(data / "test" / "good")
    described = [describe_folder(name, paths, scan) for name, paths in folders.items()]
    copies = describe_near_copies(folders, scan, data)
    across = dict(copies.across)
    if images.group_by == AUTO:  # it searched these images without test/good, which moves the line between copy and no copy
        across.pop("training and held-out", None)
    lines = [across_warning(pair, count) for pair, count in across.items()]
    if "train/good" in folders and copies.images["train/good"] and not images.by_image:
        lines.append(inside_warning(copies.images["train/good"], len(folders["train/good"]), data))
    lines += [*turned_notes(described), *form_warnings(described), *size_warnings(described)]
    if len(images.training) < FEW:
        lines.append(few_warning(len(images.training)))
    fraction = HELD_OUT_FRACTION if drawn else None
    lines += promise_warnings(len(images.held_out), fraction, parts=images.held_out_groups)
    return [*listing_notes(data), *good_part(data).notes, *lines, *promise_note(images)]


def evaluation_notes(
    data: Path, images: Sequence[LabelledImage], training: Sequence[Path], known: Collection[str] = ()
) -> list[str]:
    """Warnings about the results of an evaluation, one sentence each.

    Args:
        data: The data folder.
        images: The folder's test images.
        training: The detector's training images; missing files are skipped.
        known: Sha256 of the labelled defects that the detector was trained on.
    """
    present = [path for path in training if path.is_file()]
    folders = {"training": present} if present else {}
    for kind in ["good", *sorted({image.kind for image in images} - {"good"})]:
        folders[f"test/{kind}"] = [image.path for image in images if image.kind == kind]
    scan = Scan()
    described = [describe_folder(name, paths, scan) for name, paths in folders.items()]
    lines = [*listing_notes(data), *turned_notes(described), *form_warnings(described), *size_warnings(described)]
    hashes = [scan.images[image.path].sha256 for image in images if image.defective and image.path in scan.images]
    masks = {image.path: image.mask for image in images if image.defective and image.mask}
    lines += _mask_notes(data, [image.path for image in images if image.defective], masks, scan)
    if shown := sum(sha256 in known for sha256 in hashes):
        lines.append(
            f"training used {shown} of these defects as known defects, so the figures are too good: remove them from the test images"
        )
    if not present:
        return ["the training images are missing, so near-copies of them among the test images cannot be found", *lines]
    copies = describe_near_copies({name: folders[name] for name in ("training", "test/good") if name in folders}, scan, data)
    return [across_warning(pair, count) for pair, count in copies.across.items()] + lines


def _mask_notes(data: Path, defects: Sequence[Path], masks: Mapping[Path, Path], scan: Scan) -> list[str]:
    """Notes about the masks of scanned images."""
    sizes = {path: scan.images[path].size for path in defects if path in scan.images}
    return mask_notes(masks, defects, sizes, unmatched_masks(data, masks.values()))


def _folders(data: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]], dict[Path, Path]]:
    """The good folders and the other folders, each with its images, and the masks of the others' images."""
    part = good_part(data)
    good = {part.name: part.training}
    if part.held_out:
        good["calibration/good"] = part.held_out
    others: dict[str, list[Path]] = {}
    has_test = (data / "test").is_dir()
    tested = tested_part(data) if has_test else None if (data / "train").is_dir() else labelled_part(data)
    if tested is None:
        return good, others, {}
    for kind, paths in tested.kinds.items():
        if kind != "good":
            others[f"test/{kind}" if has_test else kind] = paths
        elif has_test:
            good["test/good"] = paths
    wanted = {path for paths in others.values() for path in paths}
    return good, others, {image: mask for image, mask in tested.masks.items() if image in wanted}


def across_warning(pair: str, count: int) -> str:
    """The warning that two folders show the same parts."""
    return (
        f"{pair} share parts: {count} image{'s' if count > 1 else ''} of the second "
        f"{'are near-copies' if count > 1 else 'is a near-copy'} of one in the first, so figures come out too good: put all "
        "pictures of a part on one side"
    )


def inside_warning(images: int, of: int, data: Path) -> str:
    """The warning that images with near-copies are held out at random."""
    command = Command("train", data, group_by="auto")
    return (
        f"{images} of {of} good images have near-copies (several pictures of one part?): if images are held out at random, copies of "
        f"training images set the threshold too low: hold out whole parts with '{command}' (the default), or replace auto by a regular "
        "expression if file names identify the part"
    )


def form_warnings(folders: Sequence[FolderReport]) -> list[str]:
    """Warnings about bit depths, colours and file types that differ within or between classes."""
    first, lines = folders[0], []
    if len(first.forms) > 1:
        lines.append(
            f"{first.name} mixes {_listed(first.forms)}: all are converted to 8 bits and one colour; save them all the same way"
        )
    for kind, of in (("", "forms"), ("file type ", "suffixes")):
        for folder in folders[1:]:
            if other := {key: n for key, n in getattr(folder, of).items() if key not in getattr(first, of)}:
                lines.append(
                    f"{folder.name} has {kind}{_listed(other)} where {first.name} has {_listed(getattr(first, of))}: a detector "
                    "may distinguish the classes by that; save all images the same way"
                )
    return lines


def turned_notes(folders: Sequence[FolderReport]) -> list[str]:
    """How many images of each folder their EXIF orientation turned, and how, one sentence a folder."""
    return [
        f"{sum(folder.turned.values())} of {folder.images} images of {folder.name} are turned upright by their EXIF orientation: "
        + ", ".join(f"{count} {how}" for how, count in folder.turned.items())
        for folder in folders
        if folder.turned
    ]


def size_warnings(folders: Sequence[FolderReport]) -> list[str]:
    """Warnings about image sizes that differ within or between classes."""
    first, lines = folders[0], []
    if len(first.sizes) > 1:
        lines.append(
            f"{first.name} has {len(first.sizes)} sizes: all are resized to one, which may distort them; crop them to one size if you can"
        )
    for folder in folders[1:]:
        if not folder.side or not first.side:
            continue
        apart = max(folder.side, first.side) / min(folder.side, first.side)
        if (len(first.sizes) == 1 and folder.sizes.keys() != first.sizes.keys()) or apart > SIZES_APART:
            lines.append(
                f"the longer side of {folder.name}'s images is {folder.side:g} pixels (median), of {first.name}'s {first.side:g}: "
                "resizing blurs them differently, and a detector may distinguish the classes by that"
            )
    return lines


def count_warnings(training: int, held_out: int) -> list[str]:
    """Warnings about too few good images.

    Args:
        training: Number of good training images (including those to hold out, if `held_out` is 0).
        held_out: Number of good images in ``calibration/good``.
    """
    lines = []
    if training < FEW:
        lines.append(few_warning(training))
    kept = held_out or round(HELD_OUT_FRACTION * training)
    return lines + promise_warnings(kept, None if held_out else HELD_OUT_FRACTION)


def few_warning(training: int) -> str:
    """The warning about too few training images."""
    return f"{training} good images are few to learn from: {FEW} or more are better, some hundreds best"


def promise_warnings(kept: int, fraction: float | None, *, parts: int | None = None) -> list[str]:
    """The warning that held-out images are too few for the default false-reject rate, or an empty list.

    Args:
        kept: Number of held-out images.
        fraction: Fraction of all good images that is held out, or None if the user chose them.
        parts: Number of parts that they show, or None if unknown; if known, the promise depends on parts instead of images.
    """
    independent = kept if parts is None else parts
    needed = round(1 / PROMISE - 1)
    if independent >= needed:
        return []
    what = f"{kept} held-out good images" if parts is None else f"{kept} held-out good images of {parts} parts"
    least = "image" if parts is None else "part"
    more = "" if fraction is None else f" ({round(needed / fraction)} good {least}s in all)"
    new = "" if parts is None else " new parts"
    return [
        f"{what} can promise{new} a false-reject rate of {1 / (independent + 1):.1%} at best: {PROMISE:.0%} needs {needed} {least}s{more}, "
        "1% needs 99"
    ]


def promise_note(images: GoodImages) -> list[str]:
    """What the promised false-reject rate will cover, one sentence; an empty list if nobody looked for groups."""
    if images.by_image:
        return [
            f"{images.by_image}, so single images are held out: the promised false-reject rate will hold for more images of these "
            "parts, and new parts may be rejected more often"
        ]
    if images.groups is None:
        return []
    kept, parts, needed = len(images.held_out), len(set(images.groups)), round(1 / PROMISE - 1)
    only = (
        f" from {1 / (parts + 1):.1%} up; a lower one holds only for more images of these parts"
        if parts < needed <= kept
        else ""
    )
    told = "image similarity" if images.group_by == AUTO else repr(images.group_by)
    return [
        f"{kept} held-out images of {parts} parts (told apart by {told}) set the threshold, and none of these parts is trained on: "
        f"the promised false-reject rate holds for new parts like these{only}"
    ]


def _listed(counts: dict[str, int]) -> str:
    """The three most frequent keys with their counts."""
    shown = ", ".join(f"{key} ({count})" for key, count in list(counts.items())[:3])
    return shown + (", …" if len(counts) > 3 else "")
