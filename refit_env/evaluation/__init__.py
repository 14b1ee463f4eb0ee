"""Full ranking, metrics, slices of users and items, and statistics."""
