"""The queue of files: entries, claims, heartbeats, retries and repair."""
