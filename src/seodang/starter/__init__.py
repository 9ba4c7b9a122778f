"""Data files → a starter recipe."""
