"""Audio in: load, decode, archives, features, spectrograms, voice activity, images of videos."""
