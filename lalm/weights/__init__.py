"""Pretrained parts: pinned sources, fetching, converting, verified checkpoints."""
