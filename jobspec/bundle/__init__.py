"""Bundles: runs that a stranger can verify, and replay."""
