"""The version: read by the build and by whatever records what made it."""

__version__ = "0.1.0"
