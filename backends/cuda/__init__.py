"""NVIDIA GPUs: cuBLAS for the products, Triton for everything between them."""
