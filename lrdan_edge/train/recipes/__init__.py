"""The registry of training recipes. To add one, add its folder and one line to `RECIPES`.

A recipe's folder has the recipe's name (underscores for hyphens). It has a module ``recipe`` with the recipe object `RECIPE`; see
`lrdan_edge.train.recipes.base`. Importing this module does not import torch, so that the command line can list the names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lrdan_edge.errors import TrainingError

if TYPE_CHECKING:
    from lrdan_edge.train.recipes.base import Recipe

RECIPES = {
    "feature-restoration": "AE2 restores the features of a pretrained backbone, and a decoder marks defects",
    "dn2": "a memory of whole images' features, for images of one object anywhere in the picture",
    "lrdan": "the networks of the LRDAN paper",
    "padim": "Gaussians of a pretrained backbone's features, fitted in one pass",
    "patchcore": "a memory of a pretrained backbone's features, fitted in one pass",
    "restoration": "a network trained from scratch restores and marks synthetic defects",
}
"""A description of each recipe's networks, by the recipe's name."""

RENAMED = {"inspection": "restoration"}
"""The names of recipes by their names in bundles of earlier versions. As options, these are deprecated until 0.4."""

DEFAULT_RECIPE = "feature-restoration"

SMALL_RECIPE = "restoration"
"""The default for images of one small object; see `lrdan_edge.train.options.TrainOptions.for_images`."""


def recipe_named(name: str) -> "Recipe[Any, Any]":
    """Import a recipe.

    Args:
        name: A key of `RECIPES` or `RENAMED`.

    Raises:
        TrainingError: There is no such recipe.
    """
    name = RENAMED.get(name, name)
    if name not in RECIPES:
        raise TrainingError(f"there is no recipe {name!r}", "give one of {known} as {recipe}", known=", ".join(RECIPES))
    found: Recipe[Any, Any] = import_module(f"{__name__}.{name.replace('-', '_')}.recipe").RECIPE
    return found
