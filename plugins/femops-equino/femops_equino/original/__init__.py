"""EquiNO as published (`mode: original`)."""
