"""What is running, what is waiting and why, and where the GPU hours went."""
