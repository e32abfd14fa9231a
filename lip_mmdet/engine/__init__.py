"""What the plugin adds to MMEngine's running of a detector: safe checkpoints, checked configs."""
