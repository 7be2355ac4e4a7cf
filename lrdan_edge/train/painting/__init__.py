"""Synthetic defects for training: good images are varied, and defects are painted into them."""
