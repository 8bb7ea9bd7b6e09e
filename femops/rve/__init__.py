"""Representative volume elements: geometry, discretisation, batched solver and the nested law."""
