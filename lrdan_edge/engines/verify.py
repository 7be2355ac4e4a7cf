"""Verification of an engine: its file, its signature, its fit, and on this device its scores of the golden frames."""

from dataclasses import dataclass

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.engines.golden import GOLDEN_TOLERANCE, check_on_golden_frames, no_golden_frames
from lrdan_edge.engines.open import Engine, distrust, engine, engine_bytes, engine_names, load_engine, sidecar_of, weights_for
from lrdan_edge.errors import LrdanError


@dataclass(frozen=True)
class Check:
    """One step of a verification.

    Attributes:
        name: ``files``, ``signature``, ``fit`` or ``scores``.
        passed: Whether it holds; None where it could not be tried.
        said: What was found.
    """

    name: str
    passed: bool | None
    said: str


def verify_engine(bundle: Bundle, name: str) -> list[Check]:
    """Verify an engine step by step. A step that rests on a failed one is not tried: untrusted bytes are never loaded.

    Args:
        bundle: The bundle.
        name: The engine's file name below ``engines/``.

    Returns:
        One check per step, in order. The engine is sound where every check passed.

    Raises:
        MissingStageError: The bundle has no such engine.
    """
    try:
        found = engine(bundle, name)
        data = engine_bytes(bundle, found)
    except LrdanError as error:
        if name not in engine_names(bundle):
            raise
        untried = "not tried: the files are damaged"
        return [Check("files", False, str(error)), *(Check(step, None, untried) for step in ("signature", "fit", "scores"))]
    checks = [Check("files", True, f"engine and sidecar are as built, sha256 {found.sidecar.engine_sha256}")]
    doubt = distrust(bundle, name, bundle.read(sidecar_of(name), found.rebuild))
    checks.append(Check("signature", doubt is None, doubt or "trusted here"))
    if found.obstacle and found.obstacle != doubt:
        checks.append(Check("fit", False, f"{found.obstacle}; rebuild with '{found.rebuild} --bundle {bundle.path}'"))
    else:
        checks.append(Check("fit", True, f"{found.sidecar.device}, {found.sidecar.target} {found.sidecar.target_version}"))
    if not all(check.passed for check in checks):
        return [*checks, Check("scores", None, "not tried: the engine is not loaded here")]
    return [*checks, _check_scores(bundle, found, data)]


def _check_scores(bundle: Bundle, found: Engine, data: bytes) -> Check:
    try:
        with load_engine(data, found.sidecar, weights_for(bundle, found.sidecar)) as backend:
            if reason := no_golden_frames(bundle):
                return Check("scores", None, reason)
            worst = check_on_golden_frames(bundle, backend, found.sidecar.precision)
    except LrdanError as error:
        return Check("scores", False, str(error))
    bound = GOLDEN_TOLERANCE[found.sidecar.precision]
    return Check("scores", True, f"within {worst:.1e} of the graph's on the golden frames, relative (bound {bound:g})")
