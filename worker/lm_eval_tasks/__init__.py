"""lm-eval's own tasks: found by name, checked, and their code run in a sandbox."""
