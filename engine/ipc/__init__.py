"""Child processes that die with their parent, and the message channels between processes."""
