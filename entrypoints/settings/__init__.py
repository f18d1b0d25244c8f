"""Settings of every entry point: flags, files, environment, and how they become configurations."""
