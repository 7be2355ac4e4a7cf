"""The HTML page: self-contained, and well-formed XML too."""

from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrdan_edge.data.images import Frame
from lrdan_edge.errors import MissingExtraError
from lrdan_edge.runtime.explain import pictures
from lrdan_edge.runtime.verdict import Verdict

PICTURE_WIDTH = 320
LEAST_ERROR = 4.0  # grey levels: the least difference that is drawn brightest
_BRIGHTEST = 0.998  # quantile of an image's differences
_COUNTED = {"good": "good", "reject": "rejected", "fault": "without a verdict"}


@dataclass(frozen=True)
class PageContext:
    """The facts that all images of the page share.

    Attributes:
        bundle: The bundle's path.
        graph: The backend and graph that inspected the images.
        threshold: The score above which a part is rejected.
        promise: The rate that the threshold promises, in words.
        good_scores: Scores of the held-out good images.
        pooling: How the score is computed from the map.
        contour: A line is drawn around heatmap values above this; None for no line.
        context_gain: Whether the heatmap gets the context gain, after the score is taken.
        source: The kind of map that the heatmap shows.
        reconstructs: Whether the network reconstructs images; otherwise the pictures of reconstruction and difference are left out.
    """

    bundle: str
    graph: str
    threshold: float
    promise: str
    good_scores: list[float]
    pooling: str
    contour: float | None
    context_gain: bool
    source: str
    reconstructs: bool


@dataclass(frozen=True)
class Explained:
    """One image of the page.

    Attributes:
        name: Its file's name.
        frame: The part that the networks see, uint8 [H, W, C]; None without an image.
        reconstruction: AE2's reconstruction, float32 [H, W, C] in grey levels; None without an image or without a reconstruction.
        verdict: Its verdict.
    """

    name: str
    frame: Frame | None
    reconstruction: npt.NDArray[np.float32] | None
    verdict: Verdict


class _Picture(NamedTuple):
    title: str
    caption: str
    source: str


@dataclass(frozen=True)
class _Card:
    """One image as the template shows it; a fault has no pictures."""

    name: str
    verdict: Verdict
    width: int = 0
    height: int = 0
    pictures: tuple[_Picture, ...] = ()
    strip: str = ""
    more_anomalous: int = 0


def as_html(page: PageContext, explained: list[Explained]) -> str:
    """Write the page.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("jinja2", "report", "explain") from error
    scales = _scales(page, explained)
    outcomes = [one.verdict.outcome for one in explained]
    counts = ", ".join(f"{outcomes.count(outcome)} {word}" for outcome, word in _COUNTED.items() if outcome in outcomes)
    folder = files(__package__)
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        folder.joinpath("page.html").read_text("utf-8")
    )
    return template.render(
        page=page,
        cards=[_card(page, one, scales) for one in explained],
        counts=counts,
        style=folder.joinpath("style.css").read_text("utf-8"),
        scale=pictures.data_uri(pictures.scale()),
        low=scales.low,
        high=scales.high,
        error=scales.error,
    )


@dataclass(frozen=True)
class _Scales:
    """The range of colours, the same for all images: heatmaps from `low` to `high`, differences from 0 to `error`."""

    low: float
    high: float
    error: float


def _scales(page: PageContext, explained: list[Explained]) -> _Scales:
    """Heatmaps are dark up to the lowest good score; if the score is not a maximum, up to the median of all values."""
    heats = [one.verdict.heatmap.ravel() for one in explained if one.verdict.heatmap is not None]
    values = np.concatenate(heats) if heats else np.zeros(1, np.float32)
    low, high = float(np.quantile(values, 0.5)), float(values.max())
    if page.pooling == "max":
        low, high = min(page.good_scores), max(high, page.threshold if page.contour is None else page.contour)
    errors = [
        float(np.quantile(pictures.difference(one.frame, one.reconstruction), _BRIGHTEST))
        for one in explained
        if one.frame is not None and one.reconstruction is not None
    ]
    return _Scales(low, high if high > low else low + 1.0, max(LEAST_ERROR, *errors) if errors else LEAST_ERROR)


def _card(page: PageContext, one: Explained, scales: _Scales) -> _Card:
    verdict, frame, reconstruction = one.verdict, one.frame, one.reconstruction
    if verdict.score is None or verdict.p_value is None or frame is None:
        return _Card(one.name, verdict)
    return _Card(
        one.name,
        verdict,
        width=frame.shape[1],
        height=frame.shape[0],
        pictures=_pictures(page, frame, reconstruction, verdict.heatmap, scales),
        strip=pictures.strip(page.good_scores, verdict.threshold, verdict.score),
        more_anomalous=round(verdict.p_value * (len(page.good_scores) + 1)) - 1,
    )


def _pictures(
    page: PageContext, frame: Frame, reconstruction: pictures.Map | None, heatmap: pictures.Map | None, scales: _Scales
) -> tuple[_Picture, ...]:
    shown: list[tuple[str, str, Frame]] = [("Image", "as the detector sees it", frame)]
    if reconstruction is not None:
        error = pictures.difference(frame, reconstruction)
        shown.append(("Reconstruction", "what a good part would look like", pictures.shown(reconstruction)))
        shown.append(
            (
                "Difference",
                f"up to {error.max():{'.0f' if error.max() >= 10 else '.2g'}} grey levels",
                pictures.coloured(error, 0.0, scales.error),
            )
        )
    if heatmap is not None:
        caption = "where a defect is likely" if page.context_gain else "what the score is computed from"
        shown.append(("Heatmap", caption, pictures.heat_picture(heatmap, scales.low, scales.high, page.contour, PICTURE_WIDTH)))
    return tuple(_Picture(title, caption, pictures.data_uri(image)) for title, caption, image in shown)
