"""Packs → checkpoints."""
