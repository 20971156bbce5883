"""What a model is asked and learns from: messages, samples, manifests, mixtures, the frame cache."""
