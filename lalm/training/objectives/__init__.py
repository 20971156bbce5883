"""Training objectives besides cross-entropy: alignment, DPO, the warm start."""
