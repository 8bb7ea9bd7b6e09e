"""Check for disconnected parts of an RVE with free rigid-body motions."""

import numpy as np

from femops.errors import CaseError
from femops.meshing import TaggedMesh
from femops.meshing.connectivity import RigidMotions, describe_parts, part_of_nodes
from femops.notation import Indices
from femops.rve.boundary import FreeDofs


def check_rigid_motions(mesh: TaggedMesh, free: FreeDofs) -> None:
    """Check that the boundary conditions of the fluctuation suppress the rigid-body motions of every connected part.

    A fixed component constrains the displacement itself, a component shared by two nodes the difference of their
    displacements.

    Raises:
        CaseError: A part has a free rigid-body motion; the message names it, its regions and the motion.
    """
    ties = _ties(free, mesh.dim)
    n_parts, part = part_of_nodes(mesh.cells, len(mesh.points), ties[:, :2])
    used = part >= 0
    counts = np.bincount(part[used], minlength=n_parts)
    points = np.zeros((len(mesh.points), 3))
    points[:, : mesh.dim] = mesh.points
    centres = np.column_stack([np.bincount(part[used], points[used, i], n_parts) for i in range(3)]) / counts[:, None]
    sizes = np.full(n_parts, np.ptp(points, axis=0).max())
    motions = RigidMotions(centres, sizes, mesh.dim)
    node, axis = np.nonzero(free.of.reshape(-1, mesh.dim) < 0)
    fixed, axis = node[used[node]], axis[used[node]]
    gram = motions.gram(motions.components(points[fixed], axis, part[fixed]), part[fixed])
    one, other, axis = ties[used[ties[:, 0]]].T
    components = motions.components(points[one], axis, part[one])
    components -= motions.components(points[other], axis, part[other])
    unconstrained = motions.free(gram + motions.gram(components, part[one]))
    if unconstrained:
        number, motion = next(iter(unconstrained.items()))
        raise CaseError(
            f"a part of the RVE is disconnected from the rest and has a free {motion}: "
            f"{describe_parts(mesh, part, n_parts)[number]}; expected merged nodes",
            key="mesh",
        )


def _ties(free: FreeDofs, dim: int) -> Indices:
    """Return the pairs of nodes that share a displacement component: node, other node, axis. Shape (n, 3)."""
    of = free.of.reshape(-1, dim)
    found = []
    for axis in range(dim):
        nodes = np.flatnonzero(of[:, axis] >= 0)
        _, first, inverse = np.unique(of[nodes, axis], return_index=True, return_inverse=True)
        other = nodes[first[inverse]]
        found.append(np.column_stack([nodes, other, np.full(len(nodes), axis)])[nodes != other])
    return np.vstack(found)
