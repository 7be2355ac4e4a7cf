"""Detectors that the one-class protocol compares; each module is imported on first use (needs torch)."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from lrdan_edge.protocol.baselines.base import Detector


def _lazy(module: str, name: str) -> "Callable[..., Detector]":
    """A factory that imports ``baselines.<module>.<name>`` when it is called."""
    return lambda *arguments: cast("Detector", getattr(import_module(f"{__name__}.{module}"), name)(*arguments))


DETECTORS: "dict[str, Callable[[], Detector]]" = {
    "lrdan": _lazy("lrdan", "Lrdan"),
    "restoration": _lazy("lrdan", "restoration"),
    "pixel-1nn": _lazy("nearest", "PixelNearestNeighbour"),
    "dn2": _lazy("dn2", "DN2Detector"),
    "pca": _lazy("pca", "PrincipalComponents"),
    "autoencoder": _lazy("autoencoder", "PlainAutoencoder"),
    "ganomaly": _lazy("ganomaly", "Ganomaly"),
    "deep-svdd": _lazy("deep_svdd", "DeepSvdd"),
    "geom": _lazy("geom", "Geom"),
}
"""Detectors that learn from good images only, by name."""

SEMI_SUPERVISED: "dict[str, Callable[[float], Detector]]" = {
    "deep-sad": _lazy("deep_sad", "DeepSad"),
    "restoration-known": _lazy("lrdan", "restoration_known"),
}
"""Factories of detectors that also learn from labelled anomalies; the argument is γ_l, their fraction of the training images."""

RENAMED = {"inspection": "restoration", "inspection-known": "restoration-known"}
"""The names of detectors by their deprecated names, until 0.4."""
