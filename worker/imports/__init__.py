"""Keeps imports of heavy libraries short and quiet."""
