"""Data: messages, samples, readers of manifests, mixtures, augmentation, the frame cache."""
