"""The hyperparameters of synthetic defects: how good images vary, what is painted into them, and how a marking network is trained."""

from dataclasses import dataclass

from lrdan_edge.train.recipes.base import GradientHyperparameters

ShapeProbabilities = tuple[tuple[str, float], ...]
"""Names of shapes in `synthetic`, each with its probability."""


@dataclass(frozen=True, kw_only=True)
class PaintingHyperparameters(GradientHyperparameters):
    """The hyperparameters that all recipes with synthetic defects share.

    Attributes:
        betas: AdamW's, for a restorer.
        weight_decay: AdamW's.
        largest_gradient: The norm that a restorer's gradients are clipped to.
        marking_weight: Weight of the marking loss; the restoration's is 1.
        overlap_weight: Weight of the overlap loss.
        smallest_area: In pixels; smaller defects count like defects of this area.
        reference_area: In pixels; a defect of this area weighs as much as a fortieth of its image, others by the root of their area.
        most_shift: Largest shift of a good image, as a fraction of its side.
        most_turn: Largest rotation of a good image, in degrees.
        most_zoom: Largest enlargement of a good image, a factor.
        most_stretch: Largest stretch of rows or of columns, a factor, for few images.
        few_images: Images are stretched if there are fewer than this; see `variation.stretch_for`.
        noisy_fraction: Fraction of images that get noise.
        most_noise: Largest standard deviation of the noise, of a range of 1.
        clean_fraction: Fraction of images that get no defect.
        details_fraction: Of the images with defects, the fraction that gets only details, including faint ones.
        detail_shapes: Shapes of details.
        region_shapes: Shapes of defects in the other images.
        least_prominence: Smallest prominence of such a defect; see `synthetic.prominence`.
        attempts: How often a defect with too little prominence is drawn again.
        least_change: Smallest change, in a range of 1, that is visible and marked.
        known_fraction: Fraction of a batch that shows known defects.
        known_mask_level: Smallest value of a defective pixel in a varied mask, which exposure scales too.
        known_pixels: Number of pixels that must look defective in a known defect without a mask.
        known_weight: Weight of the loss of these pixels. With a larger one, the network marks everything.
    """

    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    largest_gradient: float = 1.0
    marking_weight: float = 4.0
    overlap_weight: float = 0.5
    smallest_area: float = 30.0
    reference_area: float = 400.0
    most_shift: float = 0.04
    most_turn: float = 2.0
    most_zoom: float = 1.12
    most_stretch: float = 1.3
    few_images: int = 200
    noisy_fraction: float = 0.3
    most_noise: float = 0.02
    clean_fraction: float = 0.25
    details_fraction: float = 0.5
    detail_shapes: ShapeProbabilities = (
        ("blob", 0.30),
        ("crack", 0.30),
        ("scratch", 0.12),
        ("cloud", 0.12),
        ("edge", 0.16),
    )
    region_shapes: ShapeProbabilities = (
        ("blob", 0.21),
        ("crack", 0.23),
        ("scratch", 0.08),
        ("cloud", 0.08),
        ("edge", 0.12),
        ("region", 0.20),
        ("stain", 0.08),
    )
    least_prominence: float = 1.8
    attempts: int = 4
    least_change: float = 0.012
    known_fraction: float = 0.12
    known_mask_level: float = 0.4
    known_pixels: int = 30
    known_weight: float = 0.1
