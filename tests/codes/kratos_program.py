"""Solve a structure by Kratos with a UMAT; a program: FOLDER LIBRARY [PROPS...].

FOLDER/structure.npz holds points, cells, nodes that are held and their displacements, and nodal forces.
FOLDER/answer.npz gets nodal displacements, the strain and both state variables of every integration point, and the
time of the solution.
"""

import sys
import time
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
    "POINT_LOAD",
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
structure = np.load(folder / "structure.npz")
dim = structure["points"].shape[1]
part = Kratos.Model().CreateModelPart("structure", 2)
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

for number, point in enumerate(structure["points"], start=1):
    part.CreateNewNode(number, *point, *[0.0] * (3 - dim))
element = {2: "UPwSmallStrainElement2D4N", 3: "UPwSmallStrainElement3D8N"}[dim]
for number, cell in enumerate(structure["cells"], start=1):
    part.CreateNewElement(element, number, [int(node) + 1 for node in cell], material)
axes = [variable(f"DISPLACEMENT_{axis}") for axis in "XYZ"[:dim]]
for node in part.Nodes:
    for axis in axes:
        node.AddDof(axis, variable(axis.Name().replace("DISPLACEMENT", "REACTION")))
    node.AddDof(Kratos.WATER_PRESSURE, variable("REACTION_WATER_PRESSURE"))
    node.Fix(Kratos.WATER_PRESSURE)
for number in np.flatnonzero(structure["force"].any(axis=1)) + 1:
    part.CreateNewCondition(f"PointLoadCondition{dim}D1N", int(number), [int(number)], material)

criterion = Kratos.ResidualCriteria(1e-13, 1e-13)
criterion.SetEchoLevel(2)
builder = Kratos.ResidualBasedBlockBuilderAndSolver(Kratos.SkylineLUFactorizationSolver())
scheme = Kratos.ResidualBasedIncrementalUpdateStaticScheme()
strategy = Kratos.ResidualBasedNewtonRaphsonStrategy(part, scheme, criterion, builder, 12, True, False, False)
strategy.SetEchoLevel(1)
strategy.Initialize()
part.CloneTimeStep(1.0)
process[Kratos.STEP] = 1
for number, values in zip(structure["held"], structure["prescribed"], strict=True):
    node = part.GetNode(int(number) + 1)
    for axis, value in zip(axes, values, strict=True):
        node.Fix(axis)
        node.SetSolutionStepValue(axis, 0, float(value))
for node, force in zip(part.Nodes, structure["force"], strict=True):
    node.SetSolutionStepValue(variable("POINT_LOAD"), 0, [*map(float, force), 0.0][:3])
begin = time.perf_counter()
strategy.InitializeSolutionStep()
strategy.Predict()
if not strategy.SolveSolutionStep():
    sys.exit("not converged")
strategy.FinalizeSolutionStep()
seconds = time.perf_counter() - begin


def at_points(name):
    """Return a result at all integration points."""
    values = [element.CalculateOnIntegrationPoints(variable(name), process) for element in part.Elements]
    return np.concatenate([np.array([np.array(one) for one in cell]) for cell in values])


np.savez(
    folder / "answer.npz",
    displacement=[[node.GetSolutionStepValue(axis) for axis in axes] for node in part.Nodes],
    strain=at_points("ENGINEERING_STRAIN_VECTOR"),
    error=at_points("STATE_VARIABLE_1"),
    out_of_range=at_points("STATE_VARIABLE_2"),
    seconds=seconds,
)
