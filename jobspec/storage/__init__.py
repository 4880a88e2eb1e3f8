"""Every byte on disk: atomic file operations, temporary names, and the layout of a root."""
