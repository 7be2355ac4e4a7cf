"""The networks by `ModelSpec.architecture`."""

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.dn2 import DN2
from lrdan_edge.model.feature_restorer import FeatureRestorer
from lrdan_edge.model.network import Network
from lrdan_edge.model.networks import Autoencoder, Restorer
from lrdan_edge.model.padim import Padim
from lrdan_edge.model.patchcore import PatchCore

ARCHITECTURES: dict[str, type[Autoencoder] | type[Restorer] | type[Padim] | type[PatchCore] | type[FeatureRestorer]] = {
    "autoencoder": Autoencoder,
    "restorer": Restorer,
    "padim": Padim,
    "patchcore": PatchCore,
    "dn2": DN2,
    "feature-restorer": FeatureRestorer,
}


def network_for(spec: ModelSpec) -> Network:
    """Make the deployed network of a specification, newly initialised; what is pretrained is not loaded."""
    return ARCHITECTURES[spec.architecture](spec)
