"""TrainState, Batch -> TrainState, metrics: one compiled program."""
