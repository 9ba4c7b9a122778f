"""What pipeline.py calls, stage by stage."""
