"""Conversations to token ids and labels: one render, one tokenization."""
