"""Layers, network bodies and heads, written once against the ops; a family is values for them."""
