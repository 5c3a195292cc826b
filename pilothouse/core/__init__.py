"""The decision, without clock, network, files or luck: events in, commands out."""
