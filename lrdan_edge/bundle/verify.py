"""Verification of a bundle: every file against the manifest, every stage against its inputs."""

from dataclasses import dataclass

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.errors import BundleError


@dataclass(frozen=True)
class BundleCheck:
    """The result of a verification.

    Attributes:
        damaged: Reasons by file name, for files that are missing or differ from the manifest.
        stale: Reasons by stage, for stages that are older than their inputs.
    """

    damaged: dict[str, str]
    stale: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether every file matches the manifest and no stage is stale."""
        return not self.damaged and not self.stale


def verify_bundle(bundle: Bundle) -> BundleCheck:
    """Compare every file of a bundle with its manifest, and every stage with its inputs."""
    damaged: dict[str, str] = {}
    for name in bundle.manifest.files:
        records = bundle.manifest.stages.values()
        maker = next((record.command for record in records if name in record.outputs), Command("train"))
        try:
            bundle.file(name, maker)
        except BundleError as error:
            damaged[name] = str(error)
    stale = {stage: why for stage in bundle.manifest.stages if (why := bundle.staleness(stage))}
    return BundleCheck(damaged, stale)
