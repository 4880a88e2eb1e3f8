"""Time, memory and disk space that a job will need, before it runs."""
