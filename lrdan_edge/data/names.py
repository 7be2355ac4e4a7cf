"""What the names of folders and files say about the parts in them: good, defective, masks, a split, or only a lot, day or camera."""

import re
from typing import Literal

Meaning = Literal["good", "bad", "mask", "split", "lot"]


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_GOOD = _set(
    """good ok okay oks normal pass passed healthy intact flawless nominal accept accepted clean gut bon bons bueno buono conforme
    良品 正常 合格 合格品 양품 정상"""
)
_BAD = _set(
    """bad ng nok ko nio def defect defects defective defectives anomaly anomalies anomalous abnormal fault faults faulty fail fails
    failed failure failures reject rejects rejected scrap defekt defekte fehler schlecht ausschuss defaut defauts malo difetto difetti
    不良 不良品 次品 缺陷 不合格 異常 异常 불량 불량품"""
)
_DEFECTS = _set(
    """blemish blowhole bent break breaks broken bubble bubbles burr burrs chipped contamination contaminated corrosion crack cracked
    cracks damage damaged deformation deformed dent dented dents dirt dirty flaw flawed flaws fray hole holes inclusion misaligned
    misplaced missing poke porosity rust scratch scratched scratches stain stained stains tear torn"""
)
_MASK = _set("mask masks maske masken gt gts groundtruth seg segmentation segmentations annotation annotations")
_SPLIT = _set("train training test testing tests val valid validation calibration")
_NEGATIONS = _set("no non not without free un ohne kein keine")
_PROJECT = _set("dataset datasets detection inspection project")
_LOT = _set(
    """afternoon april august back batch batches black blue bottom bright cam camera cameras captures capture cavity charge dark data
    date day days december early evening exposure extra february fixture frame frames friday front green group image images img imgs inner
    ir january july june kamera late left light line lines los lot lots lower machine march may middle mold monday month more morning mould
    nest new night november october outer part parts photo photos picture pictures piece pieces pos position raw rear red right run runs
    saturday september series session set shift shifts side station stations subset sunday thursday top tray trays tuesday unit units upper
    uv view views wednesday week weeks white"""
)
_HEXADECIMAL = re.compile(r"(?i)(?<![a-z\d])(?=[a-f-]*\d)[\da-f][\da-f-]{11,}(?![a-z\d])")
"""Hashes and UUIDs, which spell words such as ``bad`` by chance."""


def meaning_of(name: str) -> Meaning | None:
    """What the name of a folder says about its images.

    Returns:
        ``good``, ``bad`` or ``mask``; ``split`` (train, test, validation); ``lot`` if every word names a lot, day, camera or the like,
        which says nothing about defects; None if it is not known.
    """
    words = _words(name)
    if not words:
        return None if name else "lot"
    if found := _label_of(words):
        return found
    if words & _SPLIT:
        return "split"
    return "lot" if all(word in _LOT or (len(word) <= 2 and word.isascii()) for word in words) else None


def kind_of(name: str) -> frozenset[str]:
    """What a numbered series of folders has in common: the words of a name, without its numbers."""
    return frozenset(_words(name))


def label_in(stem: str) -> Literal["good", "bad"] | None:
    """Whether a file's name says ``good`` or ``bad``; names of single kinds of defects do not count, and None if it says neither."""
    found = _label_of(_words(stem) - _DEFECTS)
    return found if found in ("good", "bad") else None


def _words(name: str) -> set[str]:
    """The words of a name in lower case: ``notOK_2`` has not and ok, ``N.I.O.`` has nio, ``No. 3`` has none that counts."""
    parts = re.findall(r"[^\W\d_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", _HEXADECIMAL.sub(" ", name)))
    lower = [part.lower() for part in parts]
    if all(len(part) == 1 for part in lower) or "".join(lower) in ("groundtruth", "labels"):
        lower = ["".join(lower)]
    return set(lower)


def _label_of(words: set[str]) -> Literal["good", "bad", "mask"] | None:
    if words & _MASK or words == {"labels"}:
        return "mask"
    if words & _PROJECT:
        return None
    if words == {"io"}:
        return "good"
    good, bad = bool(words & _GOOD), bool(words & (_BAD | _DEFECTS))
    if good == bad:
        return None
    return "good" if good is not bool(words & _NEGATIONS) else "bad"
