"""seodang teaches a base language model to answer in a field, and proves what that cost."""

__version__ = "0.1.0"
