"""A run to the hub: model card, files, check for secrets."""
