"""The base of every system: checkpoints, optimiser, schedules, averaging."""
