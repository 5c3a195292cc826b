"""Bytes to structs and back. Pure."""
