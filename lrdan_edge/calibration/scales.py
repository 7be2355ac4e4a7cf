"""Scales of an int8 graph with which all integer kernels give the same result, to the last bit.

Int8 kernels differ between processors. These rules exclude every case with different results:

- x86 without VNNI adds two products of unsigned and signed 8-bit numbers in 16 bits, which saturate (``vpmaddubsw``; Intel's
  oneDNN and ONNX Runtime's MLAS both use it). Activations that may be negative need all 8 bits, so their weights get 7 bits;
  activations after a ReLU need 7 bits, so their weights keep 8. In both cases no sum of two products exceeds 16 bits.
- Integer kernels add the bias as a whole number of product steps; a float bias is rounded to such a number here.
- One kernel rounds a result halfway between two steps up, another rounds it down, and float sums depend on the last bit. So one
  output step is an odd multiple of the product step (or of 1/n of it); then no integer lies halfway. If a leaky ReLU follows, the
  scale of its input is adjusted until none of its 256 values lies halfway.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

MOST_WEIGHT_STEPS = 127
"""Largest magnitude of an 8-bit weight, for activations that are never negative and thus at most 127."""

MOST_WEIGHT_STEPS_SIGNED = 64
"""The same for activations that may be negative; kernels shift these to the range 0 to 255: 2 × 255 × 64 < 2¹⁵."""

_LEAST_PARTS = 200  # in one output step; rounding down to an odd number changes a scale by at most 2 / 200
_MOST_BIAS_STEPS = 2.0**24  # as float32 holds all whole numbers up to this; int32 sums are far from overflowing
_MOST_PARTS = 2.0**22  # above this, float32 cannot distinguish odd from even
_TIE_MARGIN = 1e-3  # fraction of a step; errors of float32 sums are less than a tenth of it
_MOVES = np.arange(0.0, 0.02, 1e-4)

Floats = npt.NDArray[np.float32]


def activation_scale(amplitude: float) -> float:
    """One int8 step of an activation with largest magnitude `amplitude`; 1 if the activation is always zero."""
    return float(np.float32(amplitude / 127)) if amplitude > 0 else 1.0


def weight_scales(
    weight: Floats, most_steps: int, input_scale: float, output_scale: float | None, bias: Floats | None = None
) -> Floats:
    """One int8 step of a convolution's weight, per output channel.

    Args:
        weight: float32 [channels, …].
        most_steps: The largest magnitude of a weight in steps.
        input_scale: One step of its activations.
        output_scale: One step of its result, or None if the result stays in float.
        bias: Its bias, float32 [channels], or None. A channel whose weights are negligible beside its bias gets larger steps, so that
            the bias is at most `_MOST_BIAS_STEPS`.

    Returns:
        float32 [channels], at most about 1 % above ``amplitude / most_steps``; 1 for a channel of zeros.
    """
    amplitude = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).max(axis=1)
    if bias is not None:
        least = np.abs(bias.astype(np.float64)) / (_MOST_BIAS_STEPS * input_scale) * most_steps
        amplitude = np.where(amplitude > 0, np.maximum(amplitude, least), 0.0)
    scale = np.where(amplitude > 0, amplitude / most_steps, 1.0)
    if output_scale is not None:
        products = output_scale / (input_scale * scale)  # product steps in one output step
        fraction = np.maximum(1.0, np.ceil(_LEAST_PARTS / products))
        parts = np.floor(products * fraction)
        parts -= parts % 2 == 0
        scale = np.where(parts < _MOST_PARTS, output_scale * fraction / (input_scale * parts), scale)
    return np.where(amplitude > 0, scale, 1.0).astype(np.float32)


def round_to_steps(bias: Floats, step: Floats) -> Floats:
    """A bias, float32 [channels], rounded to whole product steps, float32 [channels]."""
    return np.asarray(np.rint(bias.astype(np.float64) / step) * step, np.float32)


def without_ties(input_scale: float, slopes: Iterable[tuple[float, float]]) -> float:
    """An input scale with which no value of a leaky ReLU lies halfway between two output steps.

    Args:
        input_scale: One step of its input.
        slopes: The slope below zero and the output scale of each leaky ReLU that reads the input.

    Returns:
        `input_scale`, or up to 2 % more: the first scale with a distance of `_TIE_MARGIN`, else the one with the largest distance.
    """
    readers = [(np.float64(np.float32(slope)), output_scale) for slope, output_scale in slopes]
    steps = np.arange(1, 129, dtype=np.float64)
    moved = [float(np.float32(input_scale * (1 + move))) for move in _MOVES]
    margins = []
    for scale in moved:
        values = np.concatenate([steps * scale / out * factor for slope, out in readers for factor in (1.0, slope)])
        margins.append(float(np.abs(values - np.floor(values) - 0.5).min()))
    return moved[next((place for place, margin in enumerate(margins) if margin >= _TIE_MARGIN), int(np.argmax(margins)))]
