"""Running a detector: safe checkpoints, checked configs, MMDetection's commands, inference."""
