"""Training one model on several processes: FSDP2 and DeepSpeed ZeRO."""
