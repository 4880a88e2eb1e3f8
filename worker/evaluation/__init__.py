"""Benchmarks through lm-eval: generation, answer extraction, grading and metrics."""
