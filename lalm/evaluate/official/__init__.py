"""Scorers of public benchmarks by their own published rules, and what may stand beside their leaderboards.

Each is a metric beside lalm's own: it reads answers as the benchmark's script does, quirks included, and
gives the script's number on the same answers (``tests/evaluate/official_scores.json``). An answer is what is
left when a model's thinking is taken away, which is what is submitted too.
"""
