"""Values for people: terminal, plots, report. Loads no model."""
