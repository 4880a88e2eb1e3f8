"""Processes that start and watch the ranks of a phase. Standard library only."""
