"""The page itself: self-contained HTML, well-formed as XML too, for a screen, a phone and paper."""

from dataclasses import dataclass
from html import escape
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from lrdan_edge.data.images import Frame
from lrdan_edge.runtime.explain import pictures
from lrdan_edge.runtime.verdict import Verdict

PICTURE_WIDTH = 320
LEAST_ERROR = 4.0  # grey levels: smaller differences are never drawn brightest
_BRIGHTEST = 0.998  # quantile of an image's differences
_COUNTED = {"good": "good", "reject": "rejected", "fault": "without a verdict"}
_WORDS = {"good": "Good", "reject": "Reject", "fault": "Fault"}


@dataclass(frozen=True)
class Facts:
    """What holds for the whole page.

    Attributes:
        bundle: Which.
        graph: What judged.
        threshold: Above it, a part is rejected.
        promise: What it stands for, in words.
        good_scores: The held-out good images' scores.
        pooling: How the score is taken of the map.
        contour: The heatmap's value that a line surrounds, or None for no line.
        nearby: Whether the heatmap gains, after the score is taken, by what is marked nearby.
        source: What the heatmap shows.
    """

    bundle: str
    graph: str
    threshold: float
    promise: str
    good_scores: list[float]
    pooling: str
    contour: float | None
    nearby: bool
    source: str


@dataclass(frozen=True)
class Explained:
    """One image.

    Attributes:
        name: Its file's name.
        frame: The part that the networks see, as they see it, uint8 [H, W, C]; None where there is no image.
        reconstruction: AE2's, float32 [H, W, C] in grey levels; None likewise.
        verdict: The verdict on it.
    """

    name: str
    frame: Frame | None
    reconstruction: npt.NDArray[np.float32] | None
    verdict: Verdict


def as_html(facts: Facts, explained: list[Explained]) -> str:
    """The page."""
    scales = _scales(facts, explained)
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    counts = ", ".join(
        f"{number} {said}"
        for outcome, said in _COUNTED.items()
        if (number := sum(one.verdict.outcome == outcome for one in explained))
    )
    cards = "".join(_card(facts, one, scales) for one in explained)
    return f"""<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" lang="en"><head><meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/><title>Explanation: {escape(counts)}</title>
<style>{style}</style></head><body>
<header><h1>Why these verdicts</h1>
<p class="lead">{len(explained)} image{"s" if len(explained) != 1 else ""}: {counts}</p>
<p class="facts"><span>bundle <b>{escape(facts.bundle)}</b></span> <span>judged by <b>{escape(facts.graph)}</b></span>
<span>threshold <b>{_number(facts.threshold)}</b> ({facts.promise})</span></p></header>
<main>{cards}</main>
<footer>{_legend(facts, scales)}</footer></body></html>
"""


@dataclass(frozen=True)
class _Scales:
    """What colours mean, the same for every image of the page: heatmaps from `low` to `high`, differences from 0 to `error`."""

    low: float
    high: float
    error: float


def _scales(facts: Facts, explained: list[Explained]) -> _Scales:
    """Heatmaps are dark where good parts are no less suspicious; where scores are no maxima, half of what is seen is dark."""
    heats = [one.verdict.heatmap.ravel() for one in explained if one.verdict.heatmap is not None]
    values = np.concatenate(heats) if heats else np.zeros(1, np.float32)
    low, high = float(np.quantile(values, 0.5)), float(values.max())
    if facts.pooling == "max":
        low, high = min(facts.good_scores), max(high, facts.threshold if facts.contour is None else facts.contour)
    errors = [
        float(np.quantile(pictures.difference(one.frame, one.reconstruction), _BRIGHTEST))
        for one in explained
        if one.frame is not None and one.reconstruction is not None
    ]
    return _Scales(low, high if high > low else low + 1.0, max(LEAST_ERROR, *errors) if errors else LEAST_ERROR)


def _card(facts: Facts, one: Explained, scales: _Scales) -> str:
    verdict = one.verdict
    head = f'<h2>{escape(one.name)}</h2><span class="badge {verdict.outcome}">{_WORDS[verdict.outcome]}</span>'
    if verdict.score is None or verdict.p_value is None or one.frame is None or one.reconstruction is None:
        return (
            f'<article class="{verdict.outcome}"><div class="head">{head}</div><p>{escape(verdict.fault or "")}</p></article>'
        )
    alike = round(verdict.p_value * (len(facts.good_scores) + 1)) - 1
    strip = pictures.strip(facts.good_scores, verdict.threshold, verdict.score)
    numbers = (
        f'<dl><div><dt>Score</dt><dd><data class="score" value="{verdict.score!r}">{_number(verdict.score)}</data></dd></div>'
        f'<div><dt>Threshold</dt><dd><data class="threshold" value="{verdict.threshold!r}">{_number(verdict.threshold)}</data></dd></div>'
        f'<div><dt>p-value</dt><dd><data class="p-value" value="{verdict.p_value!r}">{verdict.p_value:.3g}</data></dd></div></dl>'
        f'<figure class="among">{strip}<figcaption>{alike} of {len(facts.good_scores)} held-out good parts look at least this '
        "anomalous.</figcaption></figure>"
    )
    return (
        f'<article class="{verdict.outcome}"><div class="head">{head}</div><div class="body"><div class="numbers">{numbers}</div>'
        f'<div class="pictures">{_pictures(facts, one, scales)}</div></div></article>'
    )


def _pictures(facts: Facts, one: Explained, scales: _Scales) -> str:
    frame, reconstruction, heatmap = one.frame, one.reconstruction, one.verdict.heatmap
    assert frame is not None
    assert reconstruction is not None
    error = pictures.difference(frame, reconstruction)
    parts = [
        ("Image", "as the detector sees it", pictures.data_uri(frame)),
        ("Reconstruction", "what a good part would look like", pictures.data_uri(pictures.shown(reconstruction))),
        ("Difference", f"up to {error.max():.2g} grey levels", pictures.data_uri(pictures.coloured(error, 0.0, scales.error))),
    ]
    if heatmap is not None:
        heat = pictures.heat_picture(heatmap, scales.low, scales.high, facts.contour, PICTURE_WIDTH)
        said = "where a defect is likely" if facts.nearby else "what the score is made of"
        parts.append(("Heatmap", said, pictures.data_uri(heat)))
    return "".join(
        f'<figure><img src="{source}" alt="{title} of {escape(one.name)}" width="{frame.shape[1]}" height="{frame.shape[0]}"/>'
        f"<figcaption><b>{title}</b> {said}</figcaption></figure>"
        for title, said, source in parts
    )


def _legend(facts: Facts, scales: _Scales) -> str:
    bar = f'<img class="scale" src="{pictures.data_uri(pictures.scale())}" alt="" width="256" height="12"/>'
    shows = (
        "the evidence of a defect at each place (log-odds)"
        if facts.source == "defects"
        else "how far the difference at each place is from that of good parts"
    )
    pooled = {"max": "highest value", "mean": "mean", "rms": "root mean square"}[facts.pooling]
    how = f"The score is its {pooled}{', before what is marked nearby is added' if facts.nearby else ''}."
    if facts.contour is not None:
        limit = "the threshold" if facts.contour == facts.threshold else f"the pixel threshold of {_number(facts.contour)}"
        how += f" A cyan line surrounds what exceeds {limit}."
    return (
        f'<div><h3>Heatmap</h3><p class="ends"><span>{_number(scales.low)}</span>{bar}<span>{_number(scales.high)}</span></p>'
        f"<p>{shows.capitalize()}. {how}</p></div>"
        f'<div><h3>Difference</h3><p class="ends"><span>0</span>{bar}<span>{scales.error:.3g}</span></p>'
        "<p>In grey levels, of 255, averaged over colours.</p></div>"
        "<div><h3>Score</h3><p>The grey bars are the scores of held-out good parts, the dashed line is the threshold, the triangle is "
        "this image. The p-value is the share of good parts that look at least as anomalous.</p></div>"
    )


def _number(value: float) -> str:
    return f"{value:.4g}"
