"""The recipe object of `feature-restoration`."""

from dataclasses import replace
from typing import Literal

from torch import Tensor

from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.model.feature_restorer import STRIDES, FeatureRestorer
from lrdan_edge.model.pretrained import load_pretrained
from lrdan_edge.train.known_defects import KnownDefects
from lrdan_edge.train.learner import Learner, LearnerOptions
from lrdan_edge.train.painting.variation import stretch_for
from lrdan_edge.train.recipes.backbone import BackboneRecipe, feature_spec
from lrdan_edge.train.recipes.base import GradientRecipe, Networks
from lrdan_edge.train.recipes.feature_restoration.hyperparameters import FeatureRestorationHyperparameters
from lrdan_edge.train.recipes.feature_restoration.learner import FeatureRestorationLearner
from lrdan_edge.train.recipes.feature_restoration.statistics import fit_maps, standardise_features

_SHOWN = 8  # images that show that the trained network's output is finite


class RestorerNetwork(Networks):
    """The network, and the known defects that its maps are fitted to."""

    network: FeatureRestorer
    known: KnownDefects | None

    def __init__(self, network: FeatureRestorer) -> None:
        super().__init__()
        self.network, self.known = network, None


class FeatureRestoration(
    BackboneRecipe[RestorerNetwork, FeatureRestorationHyperparameters],
    GradientRecipe[RestorerNetwork, FeatureRestorationHyperparameters],
):
    """AE2 restores the features of images with synthetic defects, and a decoder marks the defects; both are scored."""

    name = "feature-restoration"
    defaults = FeatureRestorationHyperparameters()

    def spec_for(
        self, height: int, width: int, channels: Literal[1, 3], hyperparameters: FeatureRestorationHyperparameters
    ) -> ModelSpec:
        """See `Recipe.spec_for`."""
        return feature_spec(
            self.name,
            (height, width, channels),
            hyperparameters.backbone,
            STRIDES,
            "feature-restorer",
            hyperparameters.code_channels,
        )

    def networks_for(self, spec: ModelSpec) -> RestorerNetwork:
        """See `Recipe.networks_for`."""
        return RestorerNetwork(FeatureRestorer(spec))

    def scoring_for(self, spec: ModelSpec) -> Scoring:  # noqa: ARG002
        """The largest log-odds of a defect, by the marks and AE2's error together."""
        return Scoring(normalise=False, smoothing_sigma=0.0, pooling="max", source="defects")

    def learner_for(
        self,
        networks: RestorerNetwork,
        spec: ModelSpec,
        frames: Tensor,
        hyperparameters: FeatureRestorationHyperparameters,
        options: LearnerOptions,
    ) -> Learner:
        """Load the backbone's weights, standardise its features, and make the learner; see `Recipe.learner_for`."""
        network, networks.known = networks.network, options.known
        load_pretrained(hyperparameters.backbone).load_into(network.backbone, hyperparameters.contrast)
        network.ae2.dropout.p = hyperparameters.dropout
        step = max(1, len(frames) // hyperparameters.statistics_images)
        standardise_features(network, frames[::step])
        stretch = stretch_for(len(frames) // (len(spec.tile_rows) * len(spec.tile_columns)), hyperparameters)
        return FeatureRestorationLearner(network, hyperparameters, replace(options, known=None), stretch)

    def finish(
        self, networks: RestorerNetwork, frames: Tensor, preprocessing: Preprocessing, scoring: Scoring, spec: ModelSpec
    ) -> tuple[Tensor, Tensor]:
        """Fit the maps of evidence to the good images. The returned constants are not used: a few images suffice."""
        fit_maps(networks.network, frames, known=networks.known)
        shown = frames if scoring.normalise else frames[: _SHOWN * len(spec.tile_rows) * len(spec.tile_columns)]
        return super().finish(networks, shown, preprocessing, scoring, spec)


RECIPE = FeatureRestoration()
