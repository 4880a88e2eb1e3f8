"""Shows a data file before it is trained on: counts, lengths, duplicates, single rows."""
