"""What pipeline.py calls: preparation, preflight, measure, training, finish."""
