"""Disk usage, clean-up and archives of finished jobs."""
