"""Fused kernels and attention variants, each checked on the device before it is used."""
