"""Another model compares the answers of two models; whether it can is checked first."""
