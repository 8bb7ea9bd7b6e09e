"""Material laws in other finite-element codes, one module each; a host is imported by its own module only."""
