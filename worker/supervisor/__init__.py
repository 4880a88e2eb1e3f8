"""The worker process: claims jobs and runs their attempts, phase by phase. No torch."""
