"""The page at ``/``: a place to try a ranking and to look at the engine. Static files without a build step."""
