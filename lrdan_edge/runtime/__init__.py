"""From frames to verdicts; never imports torch, train or export."""
