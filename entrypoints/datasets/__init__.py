"""``engine score``: whole data sets of (query, documents) rows, resumable, errors kept per row."""
