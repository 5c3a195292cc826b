"""The live stack without a clock, a socket or a thread: one event loop on virtual time, and a network in memory."""
