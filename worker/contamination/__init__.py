"""Finds the questions of benchmarks in training data."""
