"""Files → rows → conversations."""
