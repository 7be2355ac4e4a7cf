"""The bundle: its files and commits, the manifest's schemas, and the view (what of a frame is inspected)."""
