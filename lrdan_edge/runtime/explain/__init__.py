"""Explains verdicts on one HTML page, made from the bundle without torch."""

from lrdan_edge.runtime.explain.explain import Page, explain

__all__ = ["Page", "explain"]
