"""Evaluation: tasks asked of a model, under controls, scored with intervals, written as a card and a page."""
