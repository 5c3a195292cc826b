"""Recorded traffic: bytes to rows here, rows to requests in `replay.py` (by the clock) and `agentic.py` (closed loop)."""
