"""Atomic files, feature arrays, index-only sequences, and batches by length."""
