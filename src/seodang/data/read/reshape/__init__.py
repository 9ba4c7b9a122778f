"""Rows that hold their texts deeper, or in pieces, as rows of one conversation each. Knows structure, no files."""
