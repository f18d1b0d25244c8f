"""``engine plan``: what a model needs and what it should reach, by arithmetic on its config.json."""
