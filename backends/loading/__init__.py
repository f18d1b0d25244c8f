"""From weight files to tensors in their final places, one format a file."""
