"""Resume states and final models: where they are, whether they are whole, how they are
converted."""
