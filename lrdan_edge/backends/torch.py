"""PyTorch eager mode: the reference for the other backends. No other backend imports torch."""

from typing import TYPE_CHECKING

import numpy as np

from lrdan_edge.backends.base import ANY_CORES, Backend, BackendSpec, Cores, Detections, first_line, largest_batch, slices
from lrdan_edge.data.images import Frame
from lrdan_edge.errors import BackendError, MissingExtraError

if TYPE_CHECKING:
    from lrdan_edge.bundle.bundle import Bundle


class TorchBackend(Backend):
    """Runs the trained PyTorch module, loaded from ``weights.safetensors``."""

    name = "torch"

    def __init__(self, bundle: "Bundle", *, cores: Cores = ANY_CORES) -> None:
        """Rebuild the module, on a GPU if PyTorch finds one.

        Args:
            bundle: A trained bundle.
            cores: How it may use the processor; the number of threads applies to the whole process.

        Raises:
            MissingStageError: The bundle is not trained.
            MissingExtraError: torch is not installed.
        """
        try:
            import torch
        except ImportError as error:
            raise MissingExtraError("torch", "train", "the torch backend") from error
        from lrdan_edge.model.deployed import load_network

        if cores.threads:
            torch.set_num_threads(cores.threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module = load_network(bundle).to(self._device).eval()
        model = bundle.manifest.model
        on_gpu = self._device.type == "cuda"
        name = torch.cuda.get_device_name(self._device) if on_gpu else "CPU"
        shape = model.heatmap_shape
        super().__init__(BackendSpec(model.frame_shape, shape, largest_batch(shape), name, "fp32", on_gpu=on_gpu))

    def _infer(self, frames: Frame, heatmap: bool) -> Detections:
        import torch

        scores, heatmaps = [], []
        try:
            with torch.inference_mode():
                for part in slices(frames, self.spec.max_batch):
                    score, heat = self._module(torch.from_numpy(part).to(self._device))
                    scores.append(score.cpu().numpy())
                    if heatmap:
                        heatmaps.append(heat.cpu().numpy())
        except RuntimeError as error:
            raise BackendError(f"PyTorch failed on {list(frames.shape)}: {first_line(error)}") from error
        return Detections(np.concatenate(scores), np.concatenate(heatmaps) if heatmap else None)

    def _close(self) -> None:
        del self._module
