"""Chat templates: found or borrowed, verified, rendered."""
