"""Studies of texts that models were not trained on: the loss there, and what training here is worth there."""
