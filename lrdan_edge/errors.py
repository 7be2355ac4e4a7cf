"""Every error the toolkit raises on purpose.

LrdanError                 what is wrong, with which value, and what to do
├── BundleError            the bundle cannot be read or written
│   ├── MissingStageError  a stage that must come first has not run
│   ├── ChangedFileError   a file is not the one the manifest describes
│   └── StaleStageError    a stage is older than what it was made from
├── DataError              images or folders that cannot be used
├── TrainingError          training cannot go on (NaN, collapse), or was interrupted
├── ExportError            a graph cannot be written or does not match its model
├── CalibrationError       a threshold or a quantised graph cannot be made
├── EngineError            an engine cannot be built or does not fit this device
├── SourceError            a camera, stream or file cannot deliver frames
├── BackendError           inference failed
└── MissingExtraError      an optional package is not installed

The command line prints the message in one line and exits 1. Any other exception is a bug and keeps its traceback.
"""


class LrdanError(Exception):
    """Base of every error whose message is meant for the user."""


class BundleError(LrdanError):
    """The bundle cannot be read or written."""


class MissingStageError(BundleError):
    """A stage that must come first has not run; the message names its command."""


class ChangedFileError(BundleError):
    """A file of the bundle is not the one its manifest describes."""


class StaleStageError(BundleError):
    """A stage is older than what it was made from; the message names the command that renews it."""


class DataError(LrdanError):
    """Images or folders cannot be used as they are."""


class TrainingError(LrdanError):
    """Training cannot go on: NaN, collapse, too little data."""


class CollapseError(TrainingError):
    """Training failed by itself and would fail again from where it stood: a loss is not finite, or a network has collapsed."""


class InterruptedTrainingError(TrainingError):
    """Training was interrupted, and the bundle that it was to replace was kept; the message says how to go on."""


class ExportError(LrdanError):
    """A deploy graph cannot be written, or does not match its model."""


class CalibrationError(LrdanError):
    """A threshold or a quantised graph cannot be made from the images given."""


class EngineError(LrdanError):
    """An engine cannot be built, or does not fit this device."""


class SourceError(LrdanError):
    """A camera, stream or file cannot deliver frames."""


class BackendError(LrdanError):
    """Inference failed."""


class DriftError(BackendError):
    """A backend does not reproduce the golden scores that its threshold was fitted with; the message says how to fix it."""


class MissingExtraError(LrdanError):
    """An optional package is not installed."""

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        """Say which module is missing, what needs it and the line that installs it.

        Args:
            module: The module that could not be imported, such as ``torch``.
            extra: The extra of lrdan-edge that brings it.
            purpose: What needs it, as the subject of the sentence ("training").
        """
        super().__init__(f"{purpose} needs {module}, which is not installed: pip install 'lrdan-edge[{extra}]'")
        self.module = module
