"""What `validate` and `enqueue` check before a job may enter the queue."""
