"""One codec a dialect: the bytes of a client -> a ``RerankCall``, and its result -> what that client expects."""
