"""Packs to checkpoints: the trainer, what it may take of memory, its events."""
