"""Specifications of networks, as the recipes choose them."""

from dataclasses import replace
from typing import Literal

from lrdan_edge.bundle.spec import ModelSpec


def spec_for(
    height: int,
    width: int,
    channels: Literal[1, 3],
    *,
    decoder: Literal["resize", "transposed"] = "resize",
    recipe: str = "lrdan",
) -> ModelSpec:
    """The networks of a recipe for images of this size."""
    from lrdan_edge.train.recipes import recipe_named

    chosen = recipe_named(recipe)
    hyperparameters = replace(chosen.defaults, decoder=decoder) if decoder != "resize" else chosen.defaults
    return chosen.spec_for(height, width, channels, hyperparameters)
