"""Comparisons of training methods: resumable cells, one process each, their tables, curves and aggregates.

``cells`` knows nothing of recommenders: it runs what is missing of a list of measurements, one JSON file
each. ``training`` makes models (pretraining, further ELBO, fine-tuning), ``algorithms`` is the comparison of
algorithms on the same environments, checkpoints and budgets, whose settings are data in ``settings``.
"""
