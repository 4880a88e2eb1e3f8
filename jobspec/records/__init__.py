"""Every JSON file that one process writes and another reads, as one struct each."""
