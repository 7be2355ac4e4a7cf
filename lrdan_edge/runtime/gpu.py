"""Whether a GPU does the work, for those who would rather stop than fall back."""

from lrdan_edge.errors import BackendError
from lrdan_edge.runtime.inspector import Inspector

_OTHERS = ("cpu", "none")


def require_gpu(inspector: Inspector) -> None:
    """Refuse a backend that runs on the processor.

    Raises:
        BackendError: It does; the message says what was chosen and why the GPU's engines were passed over.
    """
    device = inspector.backend.spec.device
    if device.lower().startswith(_OTHERS):
        raise BackendError(
            f"a GPU is required, and {inspector.choice.describe()} would run on {device}: build an engine for the GPU with "
            f"'lrdan-edge build-engine --fp16 --bundle {inspector.bundle.path}', or choose it with --backend tensorrt"
        )
