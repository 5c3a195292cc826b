"""What simulated, emulated and measured runs look like to people: tables, and one HTML page."""
