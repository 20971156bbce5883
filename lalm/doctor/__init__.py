"""Is a model wired right? Checks without data."""
