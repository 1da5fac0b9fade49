"""A study: Ray Tune runs trials that Optuna proposes and the race stops early; all facts go to the ledger."""
