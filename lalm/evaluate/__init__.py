"""Evaluation: tasks run on a model, with controls, scored with intervals, reported as a card and a page."""

LIBRARIES = ("jiwer", "sacrebleu", "snowballstemmer", "whisper_normalizer", "py3langid")  # of lalm[evaluate]
