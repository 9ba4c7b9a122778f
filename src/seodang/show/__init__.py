"""Evidence → people."""
