"""The one-class protocol: one class normal, nine anomalous, by every detector under the same budget (needs torch)."""
