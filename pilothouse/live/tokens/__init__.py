"""From a request body to the token ids an engine will compute, and from them to the engine's own block hashes."""
