"""Tasks: what instructions ask of a model, and how corpora become manifests of them."""
