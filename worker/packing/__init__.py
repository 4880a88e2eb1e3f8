"""How rows share a micro-batch, and the check of it on the loaded model."""
