"""Training: recipe, run, trainer, objectives, parallelism, report."""
