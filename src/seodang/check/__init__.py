"""What can be known before training."""
