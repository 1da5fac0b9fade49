"""Out-of-fold predictions become metrics, statistics, fusions, tables, plots and a report, without training."""
