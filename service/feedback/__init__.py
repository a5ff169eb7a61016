"""What was served, kept so that people can label it and the next version can learn from it. Off unless the operator asks."""
