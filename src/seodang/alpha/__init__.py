"""The alpha curve: what lies between a run's base and its tuned model, and which weights are recommended."""
