"""Evaluation of a bundle on labelled images, and its plots."""
