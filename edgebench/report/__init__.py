"""Reports of a run: one file a form, registered by name."""
