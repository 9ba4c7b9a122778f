"""Files to encoded rows and packs; no torch, no model."""
