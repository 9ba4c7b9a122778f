"""Turns of a conversation → messages."""
