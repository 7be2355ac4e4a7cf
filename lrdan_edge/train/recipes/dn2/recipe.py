"""The recipe object of `dn2`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from lrdan_edge.bundle.spec import ModelSpec, Scoring
from lrdan_edge.model.dn2 import DN2
from lrdan_edge.model.patchcore import PatchCore
from lrdan_edge.train.recipes.backbone import Stride, feature_spec
from lrdan_edge.train.recipes.patchcore.recipe import PatchCoreHyperparameters, PatchCoreNetworks, PatchCoreRecipe


@dataclass(frozen=True, kw_only=True)
class DN2Hyperparameters(PatchCoreHyperparameters):
    """The hyperparameters of the recipe `dn2`; the memory has one row per image, as far as there is room."""

    strides: tuple[Stride, ...] = (32,)
    memory_size: int = 20_000

    def describe(self) -> str:
        """See `Hyperparameters.describe`."""
        return f"mean features of {self.backbone} at stride {self.strides[0]}, at most {self.memory_size} images"


class DN2Networks(PatchCoreNetworks):
    """The network, and the candidates for the memory."""

    makes: ClassVar[type[PatchCore]] = DN2


class DN2Recipe(PatchCoreRecipe):
    """A memory of the good images' mean features; the distance to the nearest one is scored."""

    name = "dn2"
    defaults = DN2Hyperparameters()

    def spec_for(
        self, height: int, width: int, channels: Literal[1, 3], hyperparameters: PatchCoreHyperparameters
    ) -> ModelSpec:
        """See `Recipe.spec_for`."""
        return feature_spec(self.name, (height, width, channels), hyperparameters.backbone, hyperparameters.strides, "dn2")

    def networks_for(self, spec: ModelSpec) -> PatchCoreNetworks:
        """See `Recipe.networks_for`."""
        return DN2Networks(spec)

    def scoring_for(self, spec: ModelSpec) -> Scoring:  # noqa: ARG002
        """The distance, which is the same everywhere in the heatmap."""
        return Scoring(normalise=False, smoothing_sigma=0.0, pooling="max", source="error")


RECIPE = DN2Recipe()
