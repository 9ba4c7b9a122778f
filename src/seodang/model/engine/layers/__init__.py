"""Parts of a decoder layer that are written otherwise than transformers has them, with the same values."""
