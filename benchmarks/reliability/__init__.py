"""What the engine does when it is overloaded, killed, or asked badly: ``python -m benchmarks.reliability``."""
