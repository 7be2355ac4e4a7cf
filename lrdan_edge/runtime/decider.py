"""Deprecated name of `lrdan_edge.runtime.rule_filter`, until 0.3."""

import warnings

from lrdan_edge.runtime.rule_filter import RuleFilter as Decider
from lrdan_edge.runtime.rule_filter import pixel_threshold

__all__ = ["Decider", "pixel_threshold"]

warnings.warn("Decider is deprecated: use RuleFilter of lrdan_edge.runtime.rule_filter", DeprecationWarning, stacklevel=2)
