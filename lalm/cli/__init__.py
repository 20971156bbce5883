"""What the commands do that is more than one call; imported when the command is run."""
