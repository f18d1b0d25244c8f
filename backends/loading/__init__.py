"""From weight files to the tensors that are computed with, one format a file."""
