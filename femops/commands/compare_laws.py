"""Resolution of the `--law` and `--reference` options of `femops compare` to cases."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from mpi4py import MPI

from femops.errors import CaseError
from femops.inputs.case import Case, load_case
from femops.inputs.reading import read_yaml
from femops.inputs.resolved import move_files, resolved
from femops.meshing import EVERYWHERE
from femops.meshing.writing import write_mesh
from femops.offline.train import trained_model
from femops.output.folder import writing
from femops.parallel import on_root
from femops.surrogate.family import FamilyParameters
from femops.surrogate.spec import Progress, SurrogateParameters
from femops.surrogate.store import read_manifest
from femops.surrogate.stored_rve import model_rve

OWN, NESTED = "case", "nested"


def surrogates_of(case: Case) -> dict[str, SurrogateParameters]:
    """Return the trained surrogates among the laws of a case, by region."""
    return {name: law for name, law in case.laws().items() if isinstance(law, SurrogateParameters)}


@dataclass(frozen=True)
class Chooser:
    """Resolves the laws of one comparison.

    Attributes:
        path: The case file.
        overrides: Overrides of the case.
        folder: Folder for the meshes of the RVEs of surrogates, where the nested law is needed.
        comm: The ranks that work together.
        training: Called while a missing surrogate is trained.
    """

    path: Path
    overrides: tuple[str, ...]
    folder: Path
    comm: MPI.Comm
    training: Progress

    def case_with(self, option: str, text: str, law: Case | None = None) -> Case:
        """Return the case with the law that an option names; collective.

        Args:
            option: The option, for messages.
            text: `case` for the law of the case, `nested` for the nested law that its surrogates approximate, a case
                file whose `material` is used, or a YAML mapping.
            law: The case whose surrogates `nested` refers to; by default the case itself.

        Raises:
            CaseError: The case or the law cannot be used; the message names the option if it is at fault.
        """
        own = load_case(self.path, self.overrides)
        if text == OWN:
            return own
        if text == NESTED:
            surrogates = law or own
            if not surrogates_of(surrogates) and any(one.law == NESTED for one in own.laws().values()):
                return own
            material = self._nested(option, surrogates)
        elif text.lstrip().startswith("{"):
            material = text
        elif Path(text).is_file():
            material = self._material_of(Path(text))
        else:
            expected = "expected case, nested, a case file, or a law such as '{law: elastic, E: 1.0, nu: 0.3}'"
            raise CaseError(f"{text!r} given, {expected}", key=option)
        try:
            return load_case(self.path, (*self.overrides, f"material={material}"))
        except CaseError as error:
            raise blamed(error, option, text) from error

    def model_folder(self, parameters: SurrogateParameters) -> Path:
        """Return the model folder of a surrogate, training it first if given by an untrained study; collective."""
        if parameters.model is not None:
            return self.path.parent / parameters.model
        assert parameters.study is not None
        return trained_model(self.path.parent / parameters.study, parameters.law, self.comm, self.training)

    def _material_of(self, other: Path) -> str:
        """Return the material of another case file, with paths relative to the case."""
        material = read_yaml(other).get("material")
        if not isinstance(material, dict):
            raise CaseError("missing; expected a case file with a law", file=other, key="material")
        move_files(material, other.parent, self.path.parent)
        return _flow(material)

    def _nested(self, option: str, case: Case) -> str:
        """Return the material of a case with its surrogates replaced by nested laws."""
        surrogates = surrogates_of(case)
        if not surrogates:
            laws = ", ".join(law.law for law in case.laws().values())
            problem = f"nested given, but no law of the case is a surrogate whose RVE could be solved (law: {laws})"
            raise CaseError(f"{problem}; give a law or a case file", key=option)
        material = resolved(case)["material"]
        if EVERYWHERE in surrogates:
            material = {EVERYWHERE: material}
        for name, parameters in surrogates.items():
            if isinstance(parameters, FamilyParameters) and parameters.rve is not None:
                material[name] = {"law": NESTED, "rve": material[name]["rve"]}  # given in the case
                continue
            mesh = self.folder / f"rve_{name}.msh"
            write = partial(_nested_law, self.model_folder(parameters), mesh, self.path)
            material[name] = on_root(self.comm, write)
        return _flow(material)


def blamed(error: CaseError, option: str, text: str) -> CaseError:
    """Return an error of a case; if the law of an option is at fault, the error names the option instead."""
    if text == OWN or error.key.partition(".")[0] not in ("material", "--set"):
        return error
    return CaseError(error.problem, key=option if error.key == "--set" else f"{option}: {error.key}")


def _flow(material: Any) -> str:
    """Return a mapping as one line of YAML."""
    return str(yaml.safe_dump(material, default_flow_style=True, width=10**9, allow_unicode=True)).strip()


def _nested_law(model: Path, mesh: Path, path: Path) -> dict[str, Any]:
    """Write the mesh of the RVE of a model and return its nested law."""
    rve = model_rve(model)
    stored = read_manifest(model).rve
    assert stored is not None
    with writing(mesh.parent):
        mesh.parent.mkdir(parents=True, exist_ok=True)
        write_mesh(rve.discretisation.mesh, mesh)
    file = os.path.relpath(mesh, path.parent)
    source: dict[str, Any] = {"file": file}
    if (periods := rve.discretisation.outline.given_periods) is not None:
        source["periods"] = periods.tolist()
    return {"law": "nested", "rve": {"mesh": source, "boundary": stored.boundary, "phases": stored.phases}}
