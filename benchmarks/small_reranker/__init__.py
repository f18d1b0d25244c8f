"""How the small reranker in ``engine/assets/small_reranker`` was made: data, training, measurement."""
