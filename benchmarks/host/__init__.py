"""What the host costs: the engine with a device that answers at once, in processor time, stage by stage."""
