"""Metrics: what a task's results are worth; one file a kind of result."""
