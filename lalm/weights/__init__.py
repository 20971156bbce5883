"""Pretrained parts: pinned sources, fetching, converting, checkpoints that verify."""
