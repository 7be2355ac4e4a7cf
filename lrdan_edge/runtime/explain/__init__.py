"""Why an image was judged as it was: one page for inspectors, made without torch from what the bundle holds."""

from lrdan_edge.runtime.explain.explain import Page, explain

__all__ = ["Page", "explain"]
