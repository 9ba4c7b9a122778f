"""Files to rows to conversations: sources, encodings, formats."""
