"""Which images of a folder show good parts and which show defects, from the names of its folders.

Besides the layouts of `lrdan_edge.data.dataset`, it reads what other programs and people make: ``OK`` and ``NG`` (or the like) side by
side, with or without ``mask``; VisA (one category), BTAD and MPDD; classes of Roboflow; and KolektorSDD, where only the mask beside
each image says whether it is good. Anything else is refused, since defects that are learnt as good parts are never found again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from lrdan_edge.data.contents import Contents, Folders, images_of, quoted, refuse_several, refuse_unknown
from lrdan_edge.data.images import list_images, natural_key, read_mask
from lrdan_edge.data.listing import subfolders
from lrdan_edge.data.masks import MaskFinder, masks_among, masks_beside
from lrdan_edge.data.names import meaning_of
from lrdan_edge.errors import DataError


@dataclass(frozen=True)
class GoodPart:
    """The good images of a data folder.

    Attributes:
        training: Images to train on.
        held_out: Images given for the threshold.
        name: Where the training images are, for reports: ``train/good``, ``OK``, or ``.`` for the folder itself.
        notes: What is not trained on, one sentence each.
    """

    training: list[Path]
    held_out: list[Path]
    name: str
    notes: list[str]


@dataclass(frozen=True)
class TestPart:
    """The labelled images of a data folder.

    Attributes:
        kinds: Images by the kind of defect, ``good`` among them.
        masks: The mask of each image that has one.
        separate: Whether they are in a folder ``test``; others may have been trained on.
    """

    __test__ = False  # not a class of tests

    kinds: Folders
    masks: dict[Path, Path]
    separate: bool


def good_part(data: Path) -> GoodPart:
    """Find the good images of a data folder.

    Raises:
        DataError: There are none, or the names do not say which images show good parts.
    """
    if not data.exists():
        raise DataError(f"{data} does not exist", "give a folder of good images, or one with train/good")
    if (data / "train").is_dir():
        return _in_train(data)
    if other := foreign_folder(data):
        place = data / "train" / "good"
        raise DataError(f"{data} has a folder '{other}' but no train/good", "put the good images into {place}", place=place)
    found = Contents.of(data)
    refuse_several(found)
    if found.told_by_masks:
        good, bad = split_by_masks(found)
        return GoodPart(good, [], ".", [f"{len(bad)} images of {data} have marks in their masks and are not trained on"])
    if found.good and not found.plain and not found.unknown:
        left = [found.told(part) for part in (found.bad, found.masks) if part]
        notes = [f"only {found.told(found.good)} of {data} is trained on, not {' and '.join(left)}"] if left else []
        return GoodPart(images_of(found.good), [], _common(found.good), notes)
    refuse_unknown(found)
    return GoodPart(images_of(found.plain) + images_of(found.unknown), [], ".", [])


def foreign_folder(folder: Path) -> str | None:
    """The name of a subfolder that shows that `folder` does not hold only good images, or None."""
    return next((name for name in ("train", "test", "ground_truth", "calibration") if (folder / name).is_dir()), None)


def _in_train(data: Path) -> GoodPart:
    """The good images of ``train`` and ``calibration``."""
    train = data / "train"
    own = _good_folder(train)
    if own is None:
        if images := _beside_masks(train):
            return images
        _refuse_boxes(train)
        raise DataError(f"{train} has no folder 'good'", "put the good images into {place}", place=train / "good")
    found = Contents.of(own)
    if wrong := found.told(found.bad, found.masks):
        raise DataError(f"{own} holds folders of defects or masks, {wrong}", "move them out of it")
    masks = set(found.beside.values())
    training = [path for path in list_images(own) if path not in masks]
    kept = _good_folder(data / "calibration")
    left = [f"{folder.relative_to(data).as_posix()} ({count})" for folder in _unused(data, own) if (count := _count(folder))]
    notes = [f"only the images in {own} are trained on, not those in {', '.join(left)}"] if left else []
    if masks:
        notes.append(f"{len(masks)} images in {own} are masks by their names, such as {min(masks).name}, and not trained on")
    return GoodPart(training, list_images(kept) if kept else [], own.relative_to(data).as_posix(), notes)


def _good_folder(folder: Path) -> Path | None:
    """The subfolder ``good`` or, if there is none, the one whose name says the same; raises DataError if there are several."""
    if (folder / "good").is_dir():
        return folder / "good"
    found = [path for path in subfolders(folder) if meaning_of(path.name) == "good"]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder} has several folders of good images ({names})", "put them into {good}", good=folder / "good")
    return found[0] if found else None


def _unused(data: Path, own: Path) -> list[Path]:
    """Folders that a reader of the data may expect to be trained on."""
    validation = [path / "good" for path in subfolders(data) if path.name.lower() in ("val", "valid", "validation")]
    return [path for path in [*subfolders(own.parent), *validation] if path != own and meaning_of(path.name) != "mask"]


def _count(folder: Path) -> int:
    try:
        return len(list_images(folder))
    except DataError:
        return 0


def _beside_masks(train: Path) -> GoodPart | None:
    """The good images of KolektorSDD2, whose ``train`` has a mask ``NAME_GT.png`` beside each ``NAME.png``."""
    if not _count(train):
        return None
    found = Contents.of(train)
    if not found.told_by_masks:
        return None
    good, bad = split_by_masks(found)
    return GoodPart(good, [], "train", [f"{len(bad)} images of {train} have marks in their masks and are not trained on"])


def _refuse_boxes(train: Path) -> None:
    """Name the lines that convert an export of Roboflow for object detection.

    Raises:
        DataError: It is one.
    """
    good = quoted(train / "good")
    if (train / "images").is_dir() and (train / "labels").is_dir():
        images, labels = quoted(train / "images"), quoted(train / "labels")
        raise DataError(
            f"{train} holds images and boxes (YOLO), and no folder 'good'",
            "if images without a box show good parts, type {lines}",
            lines=f'mkdir -p {good}; for t in {labels}/*.txt; do [ -s "$t" ] || cp {images}/"$(basename "$t" .txt)".* {good}/; done',
        )
    boxes = next((path.name for path in sorted(train.iterdir()) if path.suffix in (".json", ".xml", ".csv")), None)
    if boxes and (train / boxes).is_file():
        raise DataError(
            f"{train} holds images and their annotations ({boxes}), and no folder 'good'",
            "export them as folders (one for each class), or type {lines}",
            lines=f"mkdir -p {good}, then mv {quoted(train)}/IMAGE {good} for each image of a good part",
        )


def _common(folders: Folders) -> str:
    """The folder that all of these are in, as far as its name says ``good``."""
    if len(folders) == 1:
        return next(iter(folders))
    heads = {name.split("/")[0] for name in folders}
    return heads.pop() if len(heads) == 1 else "good"


def split_by_masks(found: Contents) -> tuple[list[Path], list[Path]]:
    """Good and defective images by their masks, which mark nothing in a good part.

    Raises:
        DataError: A mask cannot be read, or every one marks something.
    """
    good: list[Path] = []
    bad: list[Path] = []
    for path in images_of(found.plain) + images_of(found.unknown):
        (bad if read_mask(found.beside[path]).any() else good).append(path)
    if not good:
        raise DataError(f"all {len(bad)} images of {found.folder} have marks in their masks, so none shows a good part")
    return good, bad


def tested_part(data: Path) -> TestPart:
    """The labelled images of a data folder: ``test/<kind>``, or those of `labelled_part`.

    Raises:
        DataError: There are none, or the names do not say which images show good parts.
    """
    test = data / "test"
    if not test.is_dir():
        if data.is_dir() and (found := labelled_part(data)):
            return found
        seen = f" (it has {Contents.of(data).everything})" if data.is_dir() and _count(data) else ""
        raise DataError(
            f"{data} has no folder 'test'{seen}: evaluation needs test/good and test/<defect>, or folders such as OK and NG"
        )
    if not any(meaning_of(path.name) != "mask" for path in subfolders(test)) and _count(test):
        found_here = Contents.of(test)
        if found_here.told_by_masks:
            good, bad = split_by_masks(found_here)
            return TestPart({"defect": bad, "good": good}, {path: found_here.beside[path] for path in bad}, separate=True)
    kinds: Folders = {}
    masks: dict[Path, Path] = {}
    finder = MaskFinder()
    exact = (test / "good").is_dir()  # then other names, such as clean_cut, are kinds of defects
    for folder in subfolders(test):
        meaning = meaning_of(folder.name)
        if meaning == "mask":
            continue
        images = list_images(folder)
        beside = masks_beside(images)
        own = [path for path in images if path not in set(beside.values())]
        is_good = folder.name == "good" if exact else meaning == "good"
        kinds.setdefault("good" if is_good else folder.name, []).extend(own)
        for path in own:
            if mask := finder.find(data / "ground_truth" / path.parent.relative_to(test), path) or beside.get(path):
                masks[path] = mask
    return TestPart(kinds, masks, separate=True)


def unmatched_masks(data: Path, used: Iterable[Path]) -> list[Path]:
    """Masks of a data folder that belong to no image; those in folders of good parts do not count."""
    if (data / "test").is_dir():
        folders = [data / "ground_truth", *(path for path in subfolders(data / "test") if meaning_of(path.name) == "mask")]
        masks = [path for folder in folders if _count(folder) for path in list_images(folder)]
    else:
        masks = images_of(Contents.of(data).masks)
    known = set(used)
    good = {path for path in masks if any(meaning_of(name) == "good" for name in path.relative_to(data).parent.parts)}
    return [path for path in masks if path not in known and path not in good]


def labelled_part(data: Path) -> TestPart | None:
    """The labelled images of a data folder without ``test``: folders such as OK and NG, or masks beside all images; None if it has none.

    Raises:
        DataError: A mask that has to tell good from defective images cannot be read.
    """
    found = Contents.of(data)
    if found.told_by_masks:
        good, bad = split_by_masks(found)
        return TestPart({"defect": bad, "good": good}, {path: found.beside[path] for path in bad}, separate=False)
    if not found.labelled:
        return None
    refuse_several(found)
    kinds: Folders = {}
    for name, paths in found.bad.items():
        kinds.setdefault(_kind(name), []).extend(paths)
    kinds["good"] = images_of(found.good)
    own = images_of(found.bad)
    masks = {
        **masks_among(data, own, images_of(found.masks)),
        **{path: found.beside[path] for path in own if path in found.beside},
    }
    return TestPart(kinds, masks, separate=False)


def _kind(folder: str) -> str:
    """The kind of defect that a folder's name says: ``scratch`` of ``NG/scratch/lot 2``, ``NG`` of ``NG/lot 2``."""
    names = [name for name in PurePath(folder).parts if meaning_of(name) in ("bad", None)]
    return names[-1]


def only_good_images(folder: Path) -> list[Path]:
    """Images of a folder that may hold only good ones.

    Raises:
        DataError: There are none, or it also has others; a caller has them as its parameter ``good``.
    """
    fix = "give a folder of only good images, never trained on, as {good}"
    if other := foreign_folder(folder):
        raise DataError(f"{folder} has a folder '{other}'", fix)
    part = good_part(folder)
    if part.notes:
        raise DataError(f"{folder} also has other images ({part.notes[0]})", fix)
    return part.training


def defect_images(folder: Path) -> list[Path]:
    """Images of a folder that may hold only defective ones, without their masks.

    Raises:
        DataError: There are none, or it also has good ones; a caller has them as its parameter ``defects``.
    """
    found = Contents.of(folder)
    if found.good:
        fix = "give a folder of only defective images, or one with test/good, as {defects}"
        instead = [folder / name for name in found.bad]
        raise DataError(f"{folder} has a folder '{next(iter(found.good))}'" + (f" beside {instead[0]}" if instead else ""), fix)
    images = [path for part in (found.bad, found.plain, found.unknown) for path in images_of(part)]
    if not images:
        raise DataError(f"{folder} holds no image of a defect, only masks", "check {defects}")
    return sorted(images, key=natural_key)
