"""Measuring rerankers: a running server of any dialect, or this engine in process. Start reading at ``command.py``."""
