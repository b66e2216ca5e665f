"""What a run needs around the loop: flags, models, mini-batches, checkpoints, records, and the order of its steps."""
