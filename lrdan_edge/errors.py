"""Every error that the toolkit raises on purpose.

LrdanError                 the base: the problem, the value seen and the fix
├── BundleError            the bundle cannot be read or written
│   ├── MissingStageError  a stage that must come first has not run
│   ├── ChangedFileError   a file does not match the manifest
│   ├── StaleStageError    a stage is older than its inputs
│   └── SignatureError     the bundle does not have the required signature
├── KeyFileError           a file with a key cannot be used
├── DataError              images or folders that cannot be used
├── TrainingError          training cannot go on (NaN, collapse), or was interrupted
├── ExportError            a graph cannot be written or does not match its model
├── CalibrationError       a threshold cannot be fitted, or a quantised graph cannot be made
├── EngineError            an engine cannot be built or cannot be used on this device
├── SourceError            a camera, stream or file cannot deliver frames
│   ├── SourceAddressError the address is mistyped, or nothing exists there
│   ├── SourceRefusedError it exists, but refuses: nothing listens, no permission, in use by another program
│   │   └── SourceLoginError it refuses the user name and password
│   ├── SourceCertificateError its server cannot prove who it is: its certificate is not valid
│   ├── SourceTimeoutError it does not answer, or no frame came in time
│   ├── SourceEndedError   the connection or the capture process ended
│   ├── SourceFormatError  its data cannot be decoded, or has another format than requested
│   └── SourceSignalError  frames arrive but show nothing: black, frozen, or of another size than before
├── BackendError           inference failed
│   └── HungBackendError   inference does not return: only the end of the process frees what it holds
├── SinkError              verdicts or pictures cannot be written
└── MissingExtraError      an optional package is not installed

An error keeps its parts: the problem, the fix, and the values that the fix names. As text it names the library's parameters
(``give image_size=64x64``); the command line puts its options in their place, prints one line and exits 1. Any other exception is
a bug and keeps its traceback.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

SWITCHES = {"on": True, "off": False}
"""The values that a fix may give to a parameter that is true or false, as in ``{refit:on}``."""


class Parameter(str):
    """A parameter in a fix, written for a Python caller: ``image_size``, ``image_size=64x64`` or ``int8=False``."""

    __slots__ = ()

    def __format__(self, value: str) -> str:
        """Write the name, with the value that the fix asks for if there is one.

        Args:
            value: Empty for the name only, ``on``, ``off``, or the value itself.
        """
        return f"{self}={SWITCHES.get(value, value)}" if value else str(self)


class _Parts(dict[str, Any]):
    """The values of a fix; a name without one is a parameter."""

    def __init__(self, values: Mapping[str, object], parameter: type[Parameter]) -> None:
        super().__init__(values)
        self._parameter = parameter

    def __missing__(self, name: str) -> Parameter:
        return self._parameter(name)


class LrdanError(Exception):
    """Base of every error whose message is meant for the user.

    Attributes:
        code: Identifies the kind of error for programs. It never changes; a new type has a new code.
        problem: What is wrong, with the value that was seen.
        fix: A template that says what to do: ``{name}`` is one of `values`, or else a parameter of the call that failed. Empty if
            the problem is enough.
        values: The values that `fix` names.
    """

    code: ClassVar[str] = "error"

    def __init__(self, problem: str, fix: str = "", **values: object) -> None:
        """Keep the parts.

        Args:
            problem: What is wrong, as the start of a sentence without a full stop.
            fix: A template, never an f-string, because a file name may contain braces. ``{batch_size}`` names the
                parameter, ``{batch_size:24}`` asks for a value, ``{batch_size:{best}}`` for one of `values`, ``{refit:on}`` and
                ``{int8:off}`` for true and false.
            **values: The values that `fix` names.
        """
        self.problem = problem
        self.fix = fix
        self.values = values
        super().__init__(self.worded())

    def worded(self, parameter: type[Parameter] = Parameter) -> str:
        """The message in one line, with parameters in the style of `parameter`."""
        fix = self.fix.format_map(_Parts(self.values, parameter))
        return " ".join(f"{self.problem}: {fix}".split()) if fix else self.problem


class BundleError(LrdanError):
    """The bundle cannot be read or written."""

    code = "bundle"


class MissingStageError(BundleError):
    """A stage that must come first has not run; the message names its command."""

    code = "missing-stage"


class ChangedFileError(BundleError):
    """A file of the bundle does not match the manifest."""

    code = "changed-file"


class StaleStageError(BundleError):
    """A stage is older than its inputs; the message names the command to run again."""

    code = "stale-stage"


class SignatureError(BundleError):
    """The bundle is not signed with the required key, or was changed since."""

    code = "signature"


class KeyFileError(LrdanError):
    """A file with a key cannot be read or written, holds no key, or other users can read or replace it."""

    code = "key-file"


class DataError(LrdanError):
    """Images or folders cannot be used as they are."""

    code = "data"


class TrainingError(LrdanError):
    """Training cannot go on: NaN, collapse, too little data."""

    code = "training"


class CollapseError(TrainingError):
    """Training failed and would fail again if resumed: a loss is not finite, or a network has collapsed."""

    code = "collapse"


class InterruptedTrainingError(TrainingError):
    """Training was interrupted, and the existing bundle was not replaced; the message says how to resume."""

    code = "interrupted-training"


class ExportError(LrdanError):
    """A deploy graph cannot be written, or does not match its model."""

    code = "export"


class CalibrationError(LrdanError):
    """A threshold cannot be fitted, or a quantised graph cannot be made, from the given images."""

    code = "calibration"


class EngineError(LrdanError):
    """An engine cannot be built, or cannot be used on this device."""

    code = "engine"


class UntrustedEngineError(EngineError):
    """An engine is not loaded, because neither this machine nor a trusted build machine signed it."""

    code = "untrusted-engine"


class IncompatibleEngineError(EngineError):
    """An engine does not run on this machine, or is older than its graph."""

    code = "incompatible-engine"


class SourceError(LrdanError):
    """A camera, stream or file cannot deliver frames."""

    code = "source"


class SourceAddressError(SourceError):
    """The address or one of its settings is mistyped, or nothing exists there: no such file, host or camera."""

    code = "source-address"


class SourceRefusedError(SourceError):
    """The source exists, but refuses: nothing listens on its port, no permission, or in use by another program."""

    code = "source-refused"


class SourceLoginError(SourceRefusedError):
    """The source refuses the user name and password, or asks for them. Cameras may lock an account after wrong ones."""

    code = "source-login"


class SourceCertificateError(SourceError):
    """The server of an ``https://`` or ``rtsps://`` source has no valid certificate for its name; nothing was sent to it."""

    code = "source-certificate"


class SourceTimeoutError(SourceError):
    """The source does not answer, or no frame came in time."""

    code = "source-timeout"


class SourceEndedError(SourceError):
    """The connection ended, the capture process died, or the source ended without a frame."""

    code = "source-ended"


class SourceFormatError(SourceError):
    """The source's data cannot be decoded, or does not have the requested size or format."""

    code = "source-format"


class SourceSignalError(SourceError):
    """Frames arrive but show nothing: they are black, frozen, or of another size than before."""

    code = "source-signal"


class BackendError(LrdanError):
    """Inference failed."""

    code = "backend"


class HungBackendError(BackendError):
    """Inference has not returned in time, and may never: closing the backend would wait for it."""

    code = "hung-backend"


class SinkError(LrdanError):
    """Verdicts or pictures could not be written for too long."""

    code = "sink"


class DriftError(BackendError):
    """A backend does not reproduce the golden scores that its threshold was fitted with; the message says how to fix it."""

    code = "drift"


class MissingExtraError(LrdanError):
    """An optional package is not installed."""

    code = "missing-extra"

    def __init__(self, module: str, extra: str, purpose: str, alternative: str = "") -> None:
        """Say which module is missing, what needs it and the line that installs it.

        Args:
            module: The module that could not be imported, such as ``torch``.
            extra: The extra of lrdan-edge that brings it.
            purpose: What needs it, as the subject of the sentence ("training").
            alternative: What else helps, as a part of the fix's template.
        """
        install = f"pip install 'lrdan-edge[{extra}]'"
        super().__init__(
            f"{purpose} needs {module}, which is not installed", f"{install}, or {alternative}" if alternative else install
        )
        self.module = module
