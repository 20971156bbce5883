"""Audio input: loading, decoding, archives, features, spectrograms, voice activity, images, video frames."""
