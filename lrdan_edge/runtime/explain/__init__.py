"""Explains verdicts on one HTML page. Needs only the bundle, not torch."""

from lrdan_edge.runtime.explain.explain import Page, explain

__all__ = ["Page", "explain"]
