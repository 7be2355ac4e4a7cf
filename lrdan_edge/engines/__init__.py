"""Engines: build, open, verify, trust, and golden frames."""
