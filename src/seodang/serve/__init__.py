"""A tuned model in people's hands."""
