"""The configuration: frozen structs, a strict load that names every problem, an explanation of each field."""
