"""Training: recipe, run, trainer, objectives, several processes, report."""
