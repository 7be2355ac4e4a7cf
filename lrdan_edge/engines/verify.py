"""Verify an engine: its files, its signature, its compatibility, and its scores of the golden frames on this device."""

from dataclasses import dataclass

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.engines.golden import GOLDEN_TOLERANCE, check_against_graph, no_golden_frames
from lrdan_edge.engines.keys import own_public_key
from lrdan_edge.engines.open import Engine, engine, engine_bytes, engine_names, load_engine, weights_for
from lrdan_edge.errors import LrdanError


@dataclass(frozen=True)
class Check:
    """One step of a verification.

    Attributes:
        name: ``files``, ``signature``, ``compatibility`` or ``scores``.
        passed: Whether it passed; None if it could not be tried.
        said: The finding.
    """

    name: str
    passed: bool | None
    said: str


def verify_engine(bundle: Bundle, name: str) -> list[Check]:
    """Verify an engine step by step. A step that depends on a failed one is skipped, so untrusted bytes are never loaded.

    Args:
        bundle: The bundle.
        name: The engine's file name below ``engines/``.

    Returns:
        One check per step, in order. The engine is valid if every check passed.

    Raises:
        MissingStageError: The bundle has no such engine.
    """
    try:
        found = engine(bundle, name)
        data = engine_bytes(bundle, found)
    except LrdanError as error:
        if name not in engine_names(bundle):
            raise
        skipped = "not tried: the files are damaged"
        steps = ("signature", "compatibility", "scores")
        return [Check("files", False, str(error)), *(Check(step, None, skipped) for step in steps)]
    checks = [Check("files", True, f"engine and sidecar are as built, sha256 {found.sidecar.engine_sha256}")]
    checks.append(Check("signature", found.trust.trusted, _signed_by(found)))
    if found.incompatibility:
        checks.append(Check("compatibility", False, f"{found.incompatibility}; rebuild with '{found.rebuild}'"))
    else:
        said = f"{found.sidecar.device}, {found.sidecar.target} {found.sidecar.target_version}"
        checks.append(Check("compatibility", True, said))
    if not all(check.passed for check in checks):
        return [*checks, Check("scores", None, "not tried: the engine is not loaded here")]
    return [*checks, _check_scores(bundle, found, data)]


def _signed_by(found: Engine) -> str:
    """Who signed an engine, and this machine's public key, which other machines need; or why the engine is not trusted."""
    try:
        key = own_public_key() if found.trust.trusted else None
    except LrdanError:
        key = None
    return f"{found.trust.reason}; public key of this machine {key}" if key else found.trust.reason


def _check_scores(bundle: Bundle, found: Engine, data: bytes) -> Check:
    try:
        with load_engine(data, found.sidecar, weights_for(bundle, found.sidecar)) as backend:
            if reason := no_golden_frames(bundle):
                return Check("scores", None, reason)
            worst = check_against_graph(bundle, backend, found.sidecar.precision)
    except LrdanError as error:
        return Check("scores", False, str(error))
    bound = GOLDEN_TOLERANCE[found.sidecar.precision]
    return Check("scores", True, f"within {worst:.1e} of the graph's on the golden frames, relative (bound {bound:g})")
