"""BENO, the boundary-embedded graph neural operator, for elliptic problems on varying shapes."""
