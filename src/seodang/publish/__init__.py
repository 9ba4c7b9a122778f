"""A run → the hub."""
