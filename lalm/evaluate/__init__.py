"""Evaluation: tasks run on a model, with controls, scored with intervals, reported as a card and a page."""
