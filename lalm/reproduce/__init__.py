"""A paper's finding, run here: an experiment a file, its steps, and a verdict by the rule in the file"""
