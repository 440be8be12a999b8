"""Runs of several models on one dataset, and their tables."""
