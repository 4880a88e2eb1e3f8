"""Checkpoints and final models: where they are, whether they are complete, how they are
converted."""
