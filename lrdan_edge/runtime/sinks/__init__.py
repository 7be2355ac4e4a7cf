"""Sinks: receivers of frames and their verdicts."""
