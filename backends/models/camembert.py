"""CamemBERT (crossencoder-camembert-base-mmarcoFR): RoBERTa with a French vocabulary."""

from engine.backends.models.roberta import CHECKPOINT_PREFIX, build

__all__ = ["CHECKPOINT_PREFIX", "build"]
