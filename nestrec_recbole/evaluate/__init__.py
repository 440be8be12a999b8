"""Exact ranking over the whole catalogue and the metrics that follow from ranks."""
