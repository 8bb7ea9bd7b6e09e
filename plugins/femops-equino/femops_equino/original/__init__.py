"""The original EquiNO as published by its authors (`mode: original`)."""
