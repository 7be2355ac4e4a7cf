"""What would help a detector most, by fixed rules from what its bundle records about its training."""

from typing import Any, Literal, NamedTuple

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.image_kinds import recorded_kinds
from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.data.check import FEW

Measure = Literal["longer training", "larger images", "more good images", "labelled defects", "another recipe"]

REDUCED = 1.5
"""Images that are this many times as large as the networks' images lose small defects."""

SHORT = 0.5
"""A training of fewer steps than this fraction of its recipe's usual number was cut short."""

LARGEST_SIDE = 512
"""Largest side of the networks' images, as in `lrdan_edge.model.networks`."""

DEFAULT_RECIPE = "feature-restoration"
"""As in `lrdan_edge.train.recipes`."""

_FITTED = ("padim", "patchcore", "dn2")


class Advice(NamedTuple):
    """One thing that would help.

    Attributes:
        measure: What to do.
        why: The fact in the bundle that speaks for it.
        options: Parameters of ``train`` and their values, as far as there are any.
    """

    measure: Measure
    why: str
    options: dict[str, Any]


def what_helps(bundle: Bundle) -> list[Advice]:
    """What would help a detector that finds too few defects, the most helpful first; at least one.

    The rules, in this order: longer training, if it was interrupted, cut short, or its loss was still falling; larger images, if
    training reduced them; more good images, if there are fewer than `FEW`; labelled defects, if the recipe can use them and had
    none, or else the default recipe. Where no rule applies, more good images.
    """
    results, model = bundle.manifest.stages["train"].results, bundle.manifest.model
    fitted = model.architecture in _FITTED
    images = len(results["training"]) + len(results["held_out"])
    found = [] if fitted else _longer(results)
    found += _larger(model, results)
    if images < FEW:
        found.append(Advice("more good images", f"{images} were given, {FEW} or more are better", {}))
    if fitted:
        why = f"{model.recipe} only compares features, and {DEFAULT_RECIPE} learns to mark defects"
        found.append(Advice("another recipe", why, {"recipe": DEFAULT_RECIPE}))
    elif not results.get("known_defects"):
        found.append(Advice("labelled defects", "training had none, and a few are enough", {}))
    return found or [Advice("more good images", f"{images} were given, {2 * images} are better", {})]


def _longer(results: dict[str, Any]) -> list[Advice]:
    epochs, usual = results["epochs"], results.get("usual_steps") or 0
    if results.get("interrupted"):
        why = f"it was stopped after {epochs} epochs"
    elif results["steps"] < SHORT * usual:
        why = f"it had {results['steps']} steps, and {usual} are usual"
    elif results.get("still_falling"):
        why = "the loss was still falling when it ended"
    else:
        return []
    longer = max(2 * epochs, round(epochs * usual / max(1, results["steps"])))
    return [Advice("longer training", why, {"epochs": longer})]


def _larger(model: ModelSpec, results: dict[str, Any]) -> list[Advice]:
    kinds, geometry = recorded_kinds(results), model.geometry
    if geometry:
        height, width = geometry.region[3], geometry.region[2]
        seen = geometry.canvas
    elif kinds:
        (height, width), seen = (kinds.heights[0], kinds.widths[0]), (model.height, model.width)
    else:
        return []
    if min(height / seen[0], width / seen[1]) < REDUCED:
        return []
    why = f"images of {height}x{width} are reduced to {seen[0]}x{seen[1]}, and small defects with them"
    factor = min(2.0, LARGEST_SIDE / max(model.height, model.width))
    rows, columns = (4 * round(side * factor / 4) for side in (model.height, model.width))
    if geometry or factor < REDUCED:
        return [Advice("larger images", why, {"tiles": "native"})]
    return [Advice("larger images", why, {"image_size": f"{rows}x{columns}"})]
