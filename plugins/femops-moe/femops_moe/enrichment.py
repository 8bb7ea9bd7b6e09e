"""Enrichment of trained experts by exact solutions at new strains."""

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from femops.notation import Array, Indices
from femops.surrogate import FitTask
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops_moe.basis import Basis, elastic_stiffness, nonlinear_fields
from femops_moe.experts import assemble
from femops_moe.modes import ordered
from femops_moe.partition import Partition
from femops_moe.training import cubature_rules, half_widths

_DEPENDENT = 1e-6  # part of the energy of a mode that other modes do not represent, below which it is dropped
_ROUND_OFF = 1e-12  # part of the energy of the fields that is round-off
_ON_THE_WAY = (0.5, 0.75, 1.0)  # factors of the new strains, to choose cubature points with


def enriched(task: FitTask, partition: Partition, basis: Basis, n_ports: int, counts: Indices) -> dict[str, Array]:
    """Return the arrays of a model that change when its law is enriched by snapshots.

    Global modes of the part of the fields that the law's modes do not represent are appended to its ports. Its own
    modes are unchanged, so that states stay valid. Then cubature points are chosen anew.

    Args:
        task: The new snapshots, options of the training, and the extended range.
        partition: The partition.
        basis: Modes of the law and of the indicator.
        n_ports: Number of ports of the law.
        counts: Number of bubbles of the law of each expert. Shape (K,).
    """
    space, sensitivity = FluctuationSpace(task.rve), task.solver.solver.elastic_sensitivity
    stiffness = elastic_stiffness(space, task.rve)
    fields = nonlinear_fields(space, task.snapshots, sensitivity, half_widths(task))
    owner = np.repeat(partition.owner, task.rve.discretisation.dim)
    bubbles = [basis.bubbles[:, :count] * (owner == k)[:, None] for k, count in enumerate(counts)]
    law = np.concatenate([basis.ports[:, :n_ports], *bubbles], axis=1)
    more = _modes_of_rest(stiffness, law, fields, task.options.tolerance)
    further = _without(stiffness, np.concatenate([law, more], axis=1), basis.ports[:, n_ports:])
    further = further[:, (further * (stiffness @ further)).sum(axis=0) > _DEPENDENT]
    ports = np.concatenate([basis.ports[:, :n_ports], more, further], axis=1)
    wider, n_ports = replace(basis, ports=ports), n_ports + more.shape[1]
    strain = np.concatenate([part * task.snapshots["strain"] for part in _ON_THE_WAY])
    experts = assemble(task.rve, space, partition.expert, wider)
    rules = cubature_rules(replace(task, snapshots={"strain": strain}), experts, n_ports, counts)
    return {"ports": ports, "n_ports": np.array([n_ports]), "factor": rules.law, "factor_of_indicator": rules.indicator}


def _modes_of_rest(stiffness: sp.csr_array, modes: Array, fields: Array, tolerance: float) -> Array:
    """Return modes of the rest of fields that other modes leave; they may lose `tolerance` of it (energy norm)."""
    rest = _without(stiffness, modes, fields)
    inner = rest.T @ (stiffness @ rest)
    if np.trace(inner) <= _ROUND_OFF * (fields * (stiffness @ fields)).sum():
        return rest[:, :0]
    found = ordered(inner[None], len(inner))
    wanted = 1.0 - np.cumsum([0.0, *found.energy[:-1]]) > tolerance**2
    return rest @ found.coefficients[:, wanted]


def _without(stiffness: sp.csr_array, modes: Array, fields: Array) -> Array:
    """Return fields minus their projection on modes, orthogonal in the energy of the elastic problem."""
    products = modes.T @ (stiffness @ modes)
    return fields - modes @ np.linalg.solve(products, modes.T @ (stiffness @ fields))
