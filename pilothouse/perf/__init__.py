"""How fast an engine is and how much it holds: step time, hardware, models, memory. Pure but for `fit`."""
