"""The one-class protocol: one class normal, nine anomalous, with the same budget for every detector (needs torch)."""
