"""Frames unlike the training images: judged with a note, or made a fault where their score would mean nothing."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.image_kinds import ImageKinds, recorded_kinds
from lrdan_edge.data.form import Form
from lrdan_edge.data.orientation import IN_WORDS

Kind = Literal["aspect ratio", "size", "colour", "bit depth", "orientation"]

ASPECT_NOTE, ASPECT_FAULT = 1.05, 1.6
"""Ratio of a frame's aspect ratio to the nearest one of the training images: a note from the first, a fault from the second, which
4:3 turned by 90°, or 16:9 where training images are square, exceed."""

ENLARGED_NOTE, ENLARGED_FAULT = 1.5, 8.0
"""How much more a frame is enlarged to the graph's size than the smallest training image."""

RANGE_FAULT = 4
"""A 16-bit value this many times the largest that the bit depth holds comes from a camera with another one; as much below the full
range, where the bit depth is unknown, an image is almost black."""


class Unlike(NamedTuple):
    """One way in which a frame differs from the training images.

    Attributes:
        kind: What differs.
        sentence: What was seen, and what helps.
        fault: Whether a score would mean nothing.
    """

    kind: Kind
    sentence: str
    fault: bool = False


@dataclass(frozen=True)
class FrameCheck:
    """Compares frames with what a bundle's training images looked like.

    Attributes:
        kinds: What they looked like; None in bundles of earlier versions, for which only turned photographs are noted.
        shape: (H, W, C) of the graph's frames.
        bit_depth: Number of bits used of 16-bit frames.
    """

    kinds: ImageKinds | None
    shape: tuple[int, int, int]
    bit_depth: int

    @classmethod
    def of(cls, bundle: Bundle) -> "FrameCheck":
        """The check for a bundle's frames."""
        manifest = bundle.manifest
        results = manifest.stages["train"].results if "train" in manifest.stages else {}
        return cls(recorded_kinds(results), manifest.model.frame_shape, manifest.preprocessing.bit_depth)

    def check(self, form: Form) -> list[Unlike]:
        """How a frame differs; empty if it looks like the training images."""
        if self.kinds is None:
            return _turned_before(form)
        found = (self._aspect(form, self.kinds), self._size(form, self.kinds), _colour(form, self.kinds))
        more = (self._bits(form, self.kinds), _orientation(form, self.kinds))
        return [unlike for unlike in (*found, *more) if unlike]

    def _aspect(self, form: Form, kinds: ImageKinds) -> Unlike | None:
        least, most = kinds.aspects
        aspect = form.width / form.height
        apart = max(least / aspect, aspect / most)
        if apart <= ASPECT_NOTE:
            return None
        trained = f"{least:.2f}" if f"{least:.2f}" == f"{most:.2f}" else f"{least:.2f} to {most:.2f}"
        turned = max(least * aspect, 1 / (most * aspect)) <= ASPECT_NOTE
        fix = "turn them by 90°" if turned else "crop them like the training images, or train on images like these"
        return Unlike(
            "aspect ratio",
            f"frames of {form.height}x{form.width} are {aspect:.2f} times as wide as high, training images {trained} times: resizing "
            f"distorts them; {fix}",
            fault=apart > ASPECT_FAULT,
        )

    def _size(self, form: Form, kinds: ImageKinds) -> Unlike | None:
        height, width, _ = self.shape
        trained = min(1.0, kinds.heights[0] / height, kinds.widths[0] / width)
        enlarged = trained / min(form.height / height, form.width / width)
        if enlarged <= ENLARGED_NOTE:
            return None
        return Unlike(
            "size",
            f"frames of {form.height}x{form.width} are enlarged to {height}x{width}, training images had "
            f"{kinds.heights[0]}x{kinds.widths[0]} or more: small defects cannot be seen; use the camera's full resolution",
            fault=enlarged > ENLARGED_FAULT,
        )

    def _bits(self, form: Form, kinds: ImageKinds) -> Unlike | None:
        if form.largest is None:
            if kinds.sixteen_bit < kinds.images:
                return None
            return Unlike("bit depth", "frames have 8 bits per channel, training images 16: give the camera's 16-bit frames")
        if not kinds.depth_known:
            dark = form.largest < (1 << 16) // RANGE_FAULT
            return Unlike(
                "bit depth",
                f"frames have 16 bits per channel, training images 8, so it is unknown how many of the 16 are used (largest value "
                f"{form.largest}): convert the frames to 8 bits, or train again with a bit depth",
                fault=dark,
            )
        if form.largest >= 1 << self.bit_depth:
            return Unlike(
                "bit depth",
                f"frames have values up to {form.largest}, and the bundle uses {self.bit_depth} bits: larger values than "
                f"{(1 << self.bit_depth) - 1} become white; set the camera as in training, or train again with a bit depth",
                fault=form.largest >= RANGE_FAULT << self.bit_depth,
            )
        if not kinds.sixteen_bit:
            return Unlike("bit depth", f"frames have 16 bits per channel ({self.bit_depth} used), training images 8")
        return None


def _colour(form: Form, kinds: ImageKinds) -> Unlike | None:
    if form.colour and not kinds.colour:
        return Unlike("colour", "frames are in colour, training images are grey: their colours are not used")
    if form.colour is False and kinds.colour == kinds.images:
        return Unlike(
            "colour",
            "frames are grey, training images are in colour: good parts may look like defects; set the camera to colour",
        )
    return None


def _orientation(form: Form, kinds: ImageKinds) -> Unlike | None:
    how = IN_WORDS.get(form.orientation)
    if how and not kinds.turned:
        return Unlike(
            "orientation",
            f"photographs are {how}, as their EXIF orientation says, and no training image was: check that parts have the same one",
        )
    if not how and kinds.turned == kinds.images:
        return Unlike(
            "orientation",
            "frames record no orientation, and all training images were turned by theirs (EXIF): check that parts have the same one",
        )
    return None


def _turned_before(form: Form) -> list[Unlike]:
    how = IN_WORDS.get(form.orientation)
    if not how:
        return []
    return [
        Unlike(
            "orientation",
            f"photographs are {how}, as their EXIF orientation says; the version that trained this bundle ignored it, so training "
            "images may have had another orientation: train again",
        )
    ]


@dataclass
class UnlikeCounts:
    """How many of some images are unlike the training images, by kind.

    Attributes:
        images: Number of images counted.
    """

    images: int = 0
    _first: dict[Kind, Unlike] = field(default_factory=dict)
    _counts: Counter[Kind] = field(default_factory=Counter)
    _faults: Counter[Kind] = field(default_factory=Counter)

    def add(self, found: list[Unlike]) -> str | None:
        """Count one image; returns the sentence that makes it a fault, or None."""
        self.images += 1
        for unlike in found:
            self._first.setdefault(unlike.kind, unlike)
            self._counts[unlike.kind] += 1
            self._faults[unlike.kind] += unlike.fault
        return next((unlike.sentence for unlike in found if unlike.fault), None)

    def notes(self) -> list[str]:
        """One sentence per kind, with how many images it is about."""
        return [
            f"{self._counts[kind]} of {self.images} images are unlike the training images in {kind}"
            + (f", and {self._faults[kind]} are faults" if self._faults[kind] else "")
            + f": {unlike.sentence}"
            for kind, unlike in self._first.items()
        ]
