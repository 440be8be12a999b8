"""Training: the trainer behind RecBole's interface, and checkpoints that execute nothing."""
