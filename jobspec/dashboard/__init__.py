"""The report: an HTML page of a queue, written to a file or served live."""
