"""The doctor: checks, without data, whether a model is wired correctly."""
