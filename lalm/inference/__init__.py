"""Inference: engine, conversations, likelihoods, few-shot, detection, permutation self-consistency."""
