"""One fit: a stream trained on one fold. Knows nothing of Ray or MLflow."""
