"""One model over several processes: FSDP2 and DeepSpeed."""
