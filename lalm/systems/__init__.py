"""The systems of the papers, one folder each."""
