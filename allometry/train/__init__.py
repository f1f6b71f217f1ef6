"""Training: the loop, its schedules and checkpoints, and the engines that do the arithmetic."""
