"""What engines are told so that one computes a prompt and another goes on with its KV: bodies in, bodies out. Pure."""
