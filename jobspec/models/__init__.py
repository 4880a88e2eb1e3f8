"""Facts about a model, read from its files without loading it, and about devices."""
