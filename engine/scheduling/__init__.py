"""Which tokens run in the next step: token tree, step plan, key/value memory, blame for a failed step."""
