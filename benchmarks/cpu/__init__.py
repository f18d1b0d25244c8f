"""The engine on a CPU: what the instructions allow, what the kernels reach, and how peers do beside it."""
