"""`jobspec demo`: a tiny model and tiny data through the whole pipeline."""
