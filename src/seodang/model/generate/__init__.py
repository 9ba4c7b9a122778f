"""Batched generation, sampling, stopping."""
