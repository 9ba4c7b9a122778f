"""Rows → packs. No torch, no model."""
