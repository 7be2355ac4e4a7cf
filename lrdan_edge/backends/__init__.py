"""Backends: one module each, all with the same interface."""
