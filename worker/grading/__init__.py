"""Judges responses: graders by name, math_verify in child processes, programs in a sandbox."""
