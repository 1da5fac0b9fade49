"""The ledger projected into MLflow, and fused streams as registered models. The only room that knows MLflow."""
