"""Measuring: accuracy, latency, throughput, and the pages that show them."""
