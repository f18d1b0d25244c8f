"""Rerankers for other frameworks, over ``engine.Client``: each module needs its framework and the extra of its name."""
