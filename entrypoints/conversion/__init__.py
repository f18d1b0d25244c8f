"""``engine convert``: from any checkpoint that is read to one that needs no flags."""
