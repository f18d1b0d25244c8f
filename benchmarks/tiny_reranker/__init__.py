"""How the small reranker in ``engine/assets/tiny_reranker`` was made: data, training, measurement."""
