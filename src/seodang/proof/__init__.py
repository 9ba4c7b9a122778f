"""What changed from base to tuned model: losses, answers, behaviour, stability, verdict."""
