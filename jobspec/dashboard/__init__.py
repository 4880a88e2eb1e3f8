"""The HTML page of a queue, as a file and live."""
