"""The text around a pair: built-in templates, Jinja chat templates, prompts that callers have already written."""
