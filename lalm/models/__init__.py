"""The model that all systems share: modeling, processing, chat templates, assembling, loading and saving."""
