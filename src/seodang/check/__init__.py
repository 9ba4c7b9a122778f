"""Findings on rows before any training: an audit of the sources, and checks of encoded rows."""
