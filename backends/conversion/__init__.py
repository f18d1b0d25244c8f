"""A checkpoint of any format that is read, written as plain safetensors: weights, head and merged adapters."""
