"""The bundle: its files and commits, the manifest's schemas, and the view (the part of a frame that is inspected)."""
