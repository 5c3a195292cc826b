"""What is asked of a fleet, and what came of it: one vocabulary for simulator, load generator and planner. Pure."""
