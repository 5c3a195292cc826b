"""The asyncio shell: clock, driver, engines' signals, upstream connections."""
