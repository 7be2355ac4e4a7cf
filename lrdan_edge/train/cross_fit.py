"""Cross-fitting: fit a recipe once more without each fold of the good images, and score the fold that was left out.

So every good image has a score from a network that did not learn from it, and all of them can set the threshold
(`lrdan_edge.calibration.cross`). The bundle's network is the one of fold 0, the held-out images. All networks share the frozen
backbone, so its features are computed once per image, as far as they fit into memory.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrdan_edge.backends.processor import available_memory
from lrdan_edge.bundle.encoding import SCHEMA_VERSION
from lrdan_edge.bundle.out_of_fold import OutOfFold
from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.model.deployed import ScoringHead
from lrdan_edge.model.tiling import Untile
from lrdan_edge.train.learner import LearnerOptions
from lrdan_edge.train.prefetch import batch_of
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.recipes.base import Networks, Recipe
from lrdan_edge.train.recipes.fitted import FittedHyperparameters, FittedNetworks, FittedRecipe
from lrdan_edge.train.training_data import CrossFolds, TrainingData

_USUAL_MEMORY = 2 << 30  # bytes, if the system does not say how many are available
_BATCH = 8


class BackboneFeatures:
    """The backbone's features of images; each is computed once while there is memory."""

    def __init__(self, networks: FittedNetworks, frames: Tensor) -> None:
        """Keep the networks, and the images uint8 [N, C, H, W]."""
        self._networks, self._frames = networks, frames
        self._kept: dict[int, Tensor] = {}
        self._room = (available_memory() or _USUAL_MEMORY) // 2

    @torch.inference_mode()
    def of(self, places: Tensor) -> Tensor:
        """The features of the images at `places`, int64 [n]: float32 [n, K, h, w]."""
        missing = [place for place in places.tolist() if place not in self._kept]
        new: dict[int, Tensor] = {}
        if missing:
            device = next(self._networks.parameters()).device
            new = dict(zip(missing, self._networks.features(self._frames[missing].to(device)), strict=True))
            if (len(self._kept) + len(new)) * new[missing[0]].nbytes <= self._room:
                self._kept |= {place: features.clone() for place, features in new.items()}
        return torch.stack([new[place] if place in new else self._kept[place] for place in places.tolist()])


@dataclass(frozen=True)
class CrossFit:
    """What all fits have in common.

    Attributes:
        recipe: The recipe.
        spec: The networks' specification.
        hyperparameters: The hyperparameters.
        preprocessing: How frames are preprocessed.
        scoring: How maps are scored.
        seed: Random seed of every fit.
        frames: All images, uint8 [N, C, H, W]; with tiles, several per file.
        features: Their features.
    """

    recipe: FittedRecipe[Any, Any]
    spec: ModelSpec
    hyperparameters: FittedHyperparameters
    preprocessing: Preprocessing
    scoring: Scoring
    seed: int
    frames: Tensor
    features: BackboneFeatures

    def fitted(
        self, backbone: nn.Module, files: Sequence[int], stop: Callable[[], bool] = lambda: False
    ) -> "FittedScorer | None":
        """Fit a network to some files, from the same random numbers as training; None if `stop` says so.

        Args:
            backbone: The pretrained backbone, which the network shares.
            files: Places of the files.
            stop: Asked after every batch.
        """
        places = self.places_of(files)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            networks: FittedNetworks = self.recipe.networks_for(self.spec)
        networks.network.backbone = backbone  # type: ignore[assignment]
        networks.to(device := next(backbone.parameters()).device)
        options = LearnerOptions(seed=self.seed)
        learner = self.recipe.fitting_for(networks, self.spec, len(places), self.hyperparameters, options)
        schedule = self.recipe.schedule_for(self.hyperparameters, len(places))
        for step in range(schedule.steps):
            batch = places[batch_of(step, self.seed, len(places), schedule.batch_size, whole=schedule.whole)]
            drawn = (part.to(device) for part in learner.draw(len(batch), step))
            networks.gather(self.features.of(batch), *drawn)
            if stop():
                return None
        shown = places if self.scoring.normalise else self.places_of(files[:1])  # otherwise the constants are not used
        constants = self.recipe.finish(networks, self.frames[shown], self.preprocessing, self.scoring, self.spec)
        return FittedScorer(self, networks, ScoringHead(self.spec, self.scoring, *constants))

    def places_of(self, files: Sequence[int]) -> Tensor:
        """The places of the files' images in `frames`, int64 [n]; with tiles, several per file."""
        tiles = len(self.spec.tile_rows) * len(self.spec.tile_columns)
        return (torch.tensor(files)[:, None] * tiles + torch.arange(tiles)).flatten()


class FittedScorer:
    """A fitted network with its scoring head; computes what its deploy graph would."""

    def __init__(self, fit: CrossFit, networks: FittedNetworks, head: ScoringHead) -> None:
        """Keep the parts, on the networks' device."""
        self._fit, self._network = fit, networks.network.eval()
        device = next(networks.parameters()).device
        self._head, self._untile = head.to(device), Untile(fit.spec).to(device)

    @torch.inference_mode()
    def scores(self, files: Sequence[int]) -> list[float]:
        """The scores of files, float32, in their order."""
        found: list[float] = []
        for start in range(0, len(files), _BATCH):
            places = self._fit.places_of(files[start : start + _BATCH])
            maps = torch.cat([self._network.map_of(self._fit.features.of(part)) for part in torch.split(places, _BATCH)])
            found += self._head(self._untile(maps))[0].tolist()
        return found


class CrossFitting:
    """The cross-fitting of a training run, between the last step and the saving of the bundle."""

    def __init__(self, fit: CrossFit, backbone: nn.Module, data: TrainingData, cross: CrossFolds) -> None:
        """Keep what is needed; `cross` is ``data.cross``."""
        self._fit, self._backbone, self._data, self._cross = fit, backbone, data, cross
        self._found: dict[int, float] | None = None
        self.seconds = 0.0

    @classmethod
    def of(
        cls,
        run: tuple[Recipe[Any, Any], Networks],
        data: TrainingData,
        hyperparameters: Any,
        seed: int,
        preprocessing: Preprocessing,
        scoring: Scoring,
    ) -> "CrossFitting | None":
        """The cross-fitting of a run; None if its recipe or its images allow none.

        Args:
            run: The recipe, and the networks before `Recipe.finish`.
            data: The images.
            hyperparameters: The recipe's hyperparameters.
            seed: Random seed.
            preprocessing: How frames are preprocessed.
            scoring: How maps are scored.
        """
        recipe, networks = run
        if data.cross is None or not isinstance(recipe, FittedRecipe) or not isinstance(networks, FittedNetworks):
            return None
        features = BackboneFeatures(networks, data.cross.frames)
        fit = CrossFit(recipe, data.spec, hyperparameters, preprocessing, scoring, seed, data.cross.frames, features)
        return cls(fit, networks.network.backbone, data, data.cross)

    def run(self, stop: Callable[[], bool], progress: Progress) -> bool:
        """Fit without each fold except fold 0; False if `stop` said so."""
        started = time.monotonic()
        self._found = scores_without(self._fit, self._backbone, self._cross.folds, stop, progress.cross_fit)
        self.seconds = time.monotonic() - started
        return self._found is not None

    def finished(self, networks: Networks, mean: Tensor, deviation: Tensor) -> OutOfFold:
        """All out-of-fold scores, after `run`.

        Args:
            networks: The bundle's networks, which score the held-out images.
            mean: See `Recipe.finish`.
            deviation: See `Recipe.finish`.
        """
        if self._found is None or not isinstance(networks, FittedNetworks):
            raise RuntimeError("cross-fitting is not complete")
        data, folds = self._data, self._cross.folds
        training, held_out = range(len(data.training)), range(len(data.training), len(folds))
        head = ScoringHead(self._fit.spec, self._fit.scoring, mean, deviation)
        own = FittedScorer(self._fit, networks, head).scores(held_out)
        return OutOfFold(
            schema_version=SCHEMA_VERSION,
            images=data.held_out + data.training,
            scores=own + [self._found[place] for place in training],
            folds=[folds[place] for place in (*held_out, *training)],
            groups=self._cross.groups and [self._cross.groups[place] for place in (*held_out, *training)],
        )


def scores_without(
    fit: CrossFit,
    backbone: nn.Module,
    folds: Sequence[int],
    stop: Callable[[], bool],
    report: Callable[[int, int], None],
) -> dict[int, float] | None:
    """Scores of all files outside fold 0, each by a network that was fitted without the file's fold; None if stopped.

    Args:
        fit: What all fits have in common.
        backbone: The pretrained backbone.
        folds: The fold of each file, from 0.
        stop: Asked after every batch.
        report: Called with the number of finished fits and of all.

    Returns:
        The scores, by the file's place.
    """
    found: dict[int, float] = {}
    others = sorted(set(folds) - {0})
    for number, fold in enumerate(others):
        report(number, len(others))
        scorer = fit.fitted(backbone, [place for place, own in enumerate(folds) if own != fold], stop)
        if scorer is None:
            return None
        left_out = [place for place, own in enumerate(folds) if own == fold]
        found |= dict(zip(left_out, scorer.scores(left_out), strict=True))
    report(len(others), len(others))
    return found
