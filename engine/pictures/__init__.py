"""Pictures of calls, as far as pixels: where they come from, and the process that decodes them."""
