"""The model that all systems share: modeling, processing, chat templates, assemble, load and save."""
