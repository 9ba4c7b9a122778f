"""Models → evidence."""
