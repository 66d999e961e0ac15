"""The training loop, its optimizer, and checkpoints that resume to the bit."""
