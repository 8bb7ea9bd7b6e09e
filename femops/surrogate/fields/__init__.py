"""What surrogates that predict fields share: periodic spaces, stiffness, multigrid, the energy route."""
