"""What an LLM writes: completions, resumable rows, judging, preferences, filters."""
