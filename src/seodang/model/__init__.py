"""The model: loaded, placed, saved; the packaged ones; no data."""
