"""What would help is chosen by fixed rules from what the bundle records."""

from typing import Any

import pytest
from trained import bundle

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.cli.options import in_words
from lrdan_edge.evaluation.advice import DEFAULT_RECIPE, LARGEST_SIDE, what_helps

LARGE = {"images": 300, "colour": 0, "sixteen_bit": 0, "turned": 0, "depth_known": False, "aspects": [1.0, 1.0]} | {
    "heights": [1000, 1000],
    "widths": [1000, 1000],
}


@pytest.mark.parametrize(
    ("found", "measure", "options"),
    [
        (bundle(still_falling=True), "longer training", {"epochs": 40}),
        (bundle(steps=30, epochs=2), "longer training", {"epochs": 20}),
        (bundle(interrupted=True), "longer training", {"epochs": 40}),
        (bundle(image_kinds=LARGE), "larger images", {"image_size": "256x256"}),
        (bundle(image_kinds=LARGE, side=512), "larger images", {"tiles": "native"}),
        (bundle(images=60), "more good images", {}),
        (bundle(known_defects=[]), "labelled defects", {}),
        (bundle("padim"), "another recipe", {"recipe": "feature-restoration"}),
        (bundle("dn2"), "another recipe", {"recipe": "feature-restoration"}),
        (bundle("padim", still_falling=True), "another recipe", {"recipe": "feature-restoration"}),
        (bundle(), "more good images", {}),
        (bundle(image_kinds=None), "more good images", {}),
    ],
)
def test_what_helps_most(found: Bundle, measure: str, options: dict[str, Any]) -> None:
    first = what_helps(found)[0]
    assert (first.measure, first.options) == (measure, options)
    assert in_words(first).startswith("train again with ")


def test_the_figures_are_those_of_the_networks_and_recipes() -> None:
    from lrdan_edge.model.networks import LARGEST
    from lrdan_edge.train import recipes

    assert LARGEST_SIDE == LARGEST
    assert DEFAULT_RECIPE == recipes.DEFAULT_RECIPE
