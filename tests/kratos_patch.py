"""Solve a patch by Kratos with a UMAT; a program: FOLDER LIBRARY [PROPS...].

FOLDER/patch.npz holds points, cells, left, right and pull; the nodal displacements go to FOLDER/displacement.npy.
"""

import sys
from pathlib import Path

import KratosMultiphysics as Kratos
import KratosMultiphysics.GeoMechanicsApplication
import numpy as np

variable = Kratos.KratosGlobals.GetVariable
FIELDS = [
    "DISPLACEMENT",
    "REACTION",
    "VELOCITY",
    "ACCELERATION",
    "VOLUME_ACCELERATION",
    "TOTAL_DISPLACEMENT",
    "INCREMENTAL_DISPLACEMENT",
    "WATER_PRESSURE",
    "REACTION_WATER_PRESSURE",
    "DT_WATER_PRESSURE",
]
DRY = {  # a medium without water, whose pressure is fixed at zero
    "DENSITY_SOLID": 0.0,
    "DENSITY_WATER": 0.0,
    "POROSITY": 0.0,
    "BULK_MODULUS_SOLID": 1e9,
    "BULK_MODULUS_FLUID": 1e9,
    "DYNAMIC_VISCOSITY": 1.0,
    "BIOT_COEFFICIENT": 1.0,
    "SATURATED_SATURATION": 1.0,
    "RESIDUAL_SATURATION": 0.0,
    "IGNORE_UNDRAINED": True,
    "RETENTION_LAW": "SaturatedLaw",
    **{f"PERMEABILITY_{i}": 0.0 for i in ("XX", "YY", "ZZ", "XY", "YZ", "ZX")},
}

folder, library = Path(sys.argv[1]), sys.argv[2]
patch = np.load(folder / "patch.npz")
dim = patch["points"].shape[1]
part = Kratos.Model().CreateModelPart("patch", 2)
for name in FIELDS:
    part.AddNodalSolutionStepVariable(variable(name))
process = part.ProcessInfo
process[Kratos.DOMAIN_SIZE] = dim
process[Kratos.DELTA_TIME] = 1.0
process[variable("VELOCITY_COEFFICIENT")] = process[variable("DT_PRESSURE_COEFFICIENT")] = 1.0

material = part.CreateNewProperties(1)
for name, value in DRY.items():
    material[variable(name)] = value
material[Kratos.THICKNESS] = 1.0
material[variable("UDSM_NAME")] = library
material[variable("IS_FORTRAN_UDSM")] = True
material[variable("UMAT_PARAMETERS")] = Kratos.Vector([float(value) for value in sys.argv[3:]] or [0.0])
material[variable("STATE_VARIABLES")] = Kratos.Vector([0.0, 0.0])
law = {2: "SmallStrainUMAT2DPlaneStrainLaw", 3: "SmallStrainUMAT3DLaw"}[dim]
material[Kratos.CONSTITUTIVE_LAW] = Kratos.KratosGlobals.GetConstitutiveLaw(law).Clone()

for number, point in enumerate(patch["points"], start=1):
    part.CreateNewNode(number, *point, *[0.0] * (3 - dim))
element = {2: "UPwSmallStrainElement2D4N", 3: "UPwSmallStrainElement3D8N"}[dim]
for number, cell in enumerate(patch["cells"], start=1):
    part.CreateNewElement(element, number, [int(node) + 1 for node in cell], material)
axes = [variable(f"DISPLACEMENT_{axis}") for axis in "XYZ"[:dim]]
for node in part.Nodes:
    for axis in axes:
        node.AddDof(axis, variable(axis.Name().replace("DISPLACEMENT", "REACTION")))
    node.AddDof(Kratos.WATER_PRESSURE, variable("REACTION_WATER_PRESSURE"))
    node.Fix(Kratos.WATER_PRESSURE)

criterion = Kratos.ResidualCriteria(1e-13, 1e-13)
criterion.SetEchoLevel(2)
builder = Kratos.ResidualBasedBlockBuilderAndSolver(Kratos.SkylineLUFactorizationSolver())
scheme = Kratos.ResidualBasedIncrementalUpdateStaticScheme()
strategy = Kratos.ResidualBasedNewtonRaphsonStrategy(part, scheme, criterion, builder, 12, True, False, False)
strategy.SetEchoLevel(1)
strategy.Initialize()
part.CloneTimeStep(1.0)
process[Kratos.STEP] = 1
for side, values in ((patch["left"], np.zeros(dim)), (patch["right"], patch["pull"])):
    for number in side:
        for axis, value in zip(axes, values, strict=True):
            node = part.GetNode(int(number) + 1)
            node.Fix(axis)
            node.SetSolutionStepValue(axis, 0, float(value))
strategy.InitializeSolutionStep()
strategy.Predict()
if not strategy.SolveSolutionStep():
    sys.exit("not converged")
strategy.FinalizeSolutionStep()
np.save(folder / "displacement.npy", [[node.GetSolutionStepValue(axis) for axis in axes] for node in part.Nodes])
