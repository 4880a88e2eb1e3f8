"""Immutable job specs in a file-based queue: what runs on a login node, without torch."""
