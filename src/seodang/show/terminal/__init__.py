"""A run in the terminal, in its order: plan, data, memory, progress, answers, verdict. Readable at 100 columns."""
