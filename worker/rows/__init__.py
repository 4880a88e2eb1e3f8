"""Rows of a data file as conversations: reading, converting and checking them, without a model."""
