"""Files written atomically, and caches keyed by content."""
