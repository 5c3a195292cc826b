"""The simulated world: engines, network and time, around the dispatcher that also runs live. Pure."""
