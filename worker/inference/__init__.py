"""Engines that generate text: Transformers and vLLM, one per group of GPUs."""
