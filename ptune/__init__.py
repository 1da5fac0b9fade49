"""ptune: distributed hyperparameter and ablation studies for scoring movement videos."""

__version__ = "0.1.0"
