"""The engine core: the loop of schedule, execute and update, its process, and the clients that talk to it."""
