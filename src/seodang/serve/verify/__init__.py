"""Is what is served what was proven? Prompts, answers and weights of an endpoint or a folder against a run's."""
