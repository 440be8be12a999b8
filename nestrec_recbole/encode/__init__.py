"""Item fields to field embeddings: frozen encoders run once, their outputs kept as feature arrays."""
