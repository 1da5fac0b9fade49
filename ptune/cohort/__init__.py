"""Videos and labels: manifests, folds, synthetic cohorts."""
