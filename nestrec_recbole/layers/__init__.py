"""Blocks in plain torch: the Q-Former, the causal transformer and the losses. No RecBole, no input or output."""
