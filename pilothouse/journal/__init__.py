"""The append-only record of events and commands, and its replay."""
