"""Published figures of the same protocol for comparison, with their source; only verified figures are included.

Left out: LRDAN's table (arXiv 2002.01607), which could not be verified, and GANomaly's (arXiv 1805.06725), whose protocol is the
reverse: one class anomalous and nine normal.
"""

from dataclasses import dataclass

from lrdan_edge.protocol.readers import DatasetName


@dataclass(frozen=True)
class Published:
    """A published row of figures.

    Attributes:
        method: The detector.
        source: Where the figures were published.
        auroc: Image AUROC in percent, in the order of the data set's classes.
    """

    method: str
    source: str
    auroc: tuple[float, ...]


_AGAD = "table 1 of AGAD (arXiv 2304.04211)"
_DEEP_SVDD = "table 1 of Deep SVDD (Ruff et al., ICML 2018), one-class variant; read in a reimplementation's comparison with it"
_GEOM = f"GEOM (arXiv 1805.10917), read in {_AGAD}"

PUBLISHED: dict[DatasetName, tuple[Published, ...]] = {
    "mnist": (
        Published("Deep SVDD", _DEEP_SVDD, (98.0, 99.7, 91.7, 91.9, 94.9, 88.5, 98.3, 94.6, 93.9, 96.5)),
        Published(
            "GEOM",
            f"GEOM (arXiv 1805.10917) as {_AGAD} reports it",
            (98.2, 91.6, 99.4, 99.0, 99.1, 99.6, 99.9, 96.3, 97.2, 99.2),
        ),
    ),
    "fashion-mnist": (Published("GEOM", _GEOM, (99.4, 97.6, 91.1, 89.9, 92.1, 93.4, 83.3, 98.9, 90.8, 99.2)),),
    "cifar10": (
        Published("Deep SVDD", _DEEP_SVDD, (61.7, 65.9, 50.8, 59.1, 60.9, 65.7, 67.7, 67.3, 75.9, 73.1)),
        Published("GEOM", _GEOM, (74.7, 95.7, 78.1, 72.4, 87.8, 87.8, 83.4, 95.5, 93.3, 91.3)),
    ),
}

LEFT_OUT = (
    "LRDAN's own figures (arXiv 2002.01607) are left out, as they could not be checked against the paper; GANomaly's "
    "(arXiv 1805.06725) are left out, as its protocol is the reverse: one class anomalous, nine normal."
)
