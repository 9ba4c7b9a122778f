"""A model in hand: load, attend, score, generate."""
