"""What a run minimises beside cross-entropy: alignment, DPO, the warm start."""
