"""Export of trained laws as C99 source, with wrappers for the interfaces of other finite-element codes."""
