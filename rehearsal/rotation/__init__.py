"""Rotations with faults, judged by the world: consumers under constant traffic, a fault at a step,
a second run. No Prefect server: the tasks' own functions are called."""
