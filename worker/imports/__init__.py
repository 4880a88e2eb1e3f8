"""Makes imports of heavy libraries faster, and calls of lm-eval quieter."""
