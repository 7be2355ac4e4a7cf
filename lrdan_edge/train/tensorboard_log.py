"""TensorBoard: losses, learning rate and restored images while training runs."""

from pathlib import Path

import torch
from torch import Tensor

from lrdan_edge.bundle.spec import Preprocessing
from lrdan_edge.errors import MissingExtraError
from lrdan_edge.model.deployed import preprocess
from lrdan_edge.model.network import Network

SHOWN_IMAGES = 4


class TrainingLog:
    """Receives losses and images during training. This class writes nothing."""

    def step(self, step: int, losses: dict[str, float], rate: float | None) -> None:
        """A step was made; `rate` is the learning rate of the first optimiser, if there is one."""

    def epoch(self, step: int, network: Network, x: Tensor) -> None:
        """An epoch has ended.

        Args:
            step: The last step, from 1.
            network: The deployed network.
            x: Training inputs of the network, float32 [n, C, H, W] in [-1, 1].
        """

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, *_: object) -> None:
        """Stop writing."""


class TensorBoardLog(TrainingLog):
    """Writes event files for the command ``tensorboard``."""

    def __init__(self, folder: Path, preprocessing: Preprocessing, first_step: int) -> None:
        """Begin.

        Args:
            folder: Folder for the event files.
            preprocessing: The preprocessing before AE2.
            first_step: Number of completed steps; events of an earlier start for later steps are removed.

        Raises:
            MissingExtraError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard", "the TensorBoard log") from error
        self._preprocessing = preprocessing
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def step(self, step: int, losses: dict[str, float], rate: float | None) -> None:
        """See `TrainingLog.step`."""
        for name, value in losses.items():
            self._writer.add_scalar(f"loss/{name}" if not name.startswith("spread") else name, value, step)
        if rate is not None:
            self._writer.add_scalar("learning rate", rate, step)

    @torch.no_grad()
    def epoch(self, step: int, network: Network, x: Tensor) -> None:
        """Write each image beside its reconstruction, if the network makes one; see `TrainingLog.epoch`."""
        if not network.reconstructs:
            return
        training = network.training
        network.eval()
        shown = preprocess((x[:SHOWN_IMAGES] + 1) * 127.5, self._preprocessing)
        restored: Tensor = network(shown.contiguous(memory_format=torch.channels_last))[0].float()
        network.train(training)
        low, high = shown.amin((1, 2, 3), keepdim=True), shown.amax((1, 2, 3), keepdim=True)
        pairs = (torch.cat([shown, restored], 3) - low) / (high - low).clamp_min(1e-6)
        self._writer.add_images("image and reconstruction", pairs.clamp(0, 1).flip(1).cpu(), step)  # BGR to RGB

    def __exit__(self, *_: object) -> None:
        """Write the remaining events."""
        self._writer.close()
