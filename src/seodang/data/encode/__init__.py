"""Conversations → token ids and labels."""
