"""Finds and reads the answer in a response: integers, numbers, letters, texts and programs."""
