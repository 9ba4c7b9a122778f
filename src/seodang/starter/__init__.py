"""Data files to a starter recipe: what `seodang init` writes."""
