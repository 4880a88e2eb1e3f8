"""Measures what a root's filesystem really does, on one host or across several."""
