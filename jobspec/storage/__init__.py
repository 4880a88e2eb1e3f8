"""Files: atomic operations, temporary names, mounts, and the layout of a root."""
