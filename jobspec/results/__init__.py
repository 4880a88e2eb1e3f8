"""Scores of finished jobs: tables, confidence intervals and comparisons."""
