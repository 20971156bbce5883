"""Data written by an LLM: completions, resumable rows, judging, preferences, filters."""
