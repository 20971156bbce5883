"""Answers: the engine, conversations, likelihoods, few-shot, detection, several orders."""
