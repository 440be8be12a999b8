"""Tuning on validation data with Ray Tune; test data is not there while it goes on."""
