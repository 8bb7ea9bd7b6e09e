"""The model folder of a trained surrogate: `manifest.json` and `model.safetensors`.

It is self-contained: `model.safetensors` holds the arrays of the surrogate and the mesh of its RVE, the manifest
everything else, including the parameters of the phases. A model of a family of RVEs or of a problem holds the
corresponding block of the study instead of an RVE. The folder is pure data: reading it neither runs nor imports code.
Checksums are verified before use: `arrays_sha256` is that of the array file, `sha256` that of the manifest without this
key, as JSON with sorted keys and no spaces.
"""

import datetime
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ConfigDict

from femops.errors import CaseError
from femops.law import LawParameters
from femops.notation import Array, n_strain
from femops.output.atomic import new_folder, present, write_bytes
from femops.output.tables import plain
from femops.rve.conditions import Boundary
from femops.surrogate.arrays import StoredArrayError, finite_range, packed
from femops.surrogate.spec import Fit, TrainedModel
from femops.validation import validated

if TYPE_CHECKING:
    from femops.rve.spec import RVE

STORE_INTERFACE = 2
"""Format version of model folders."""

MANIFEST, ARRAYS = "manifest.json", "model.safetensors"
_MODEL = "model/"

_KINEMATICS = {2: "plane_strain", 3: "solid"}


@dataclass(frozen=True)
class Origin:
    """Provenance of a model.

    Attributes:
        law: Name of the surrogate.
        study: Content hash of the study.
        title: Title of the study.
        units: Note on the units, for readers.
        seed: Seed of the training.
        versions: Versions of the packages that trained it.
        metrics: Metrics of training and validation.
    """

    law: str
    study: str
    title: str = ""
    units: str = ""
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


class StoredRVE(BaseModel):
    """The RVE in a manifest; its mesh is among the arrays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hash: str
    boundary: Boundary
    cell: str
    phases: dict[str, dict[str, Any]]
    cells_of_phase: dict[str, tuple[int, int]]


class Manifest(BaseModel):
    """The content of `manifest.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    interface: int
    law: str
    study: str
    title: str
    units: str
    kinematics: Literal["plane_strain", "solid"] | None = None
    notation: Literal["mandel"]
    low: list[float] = []
    high: list[float] = []
    rve: StoredRVE | None = None
    family: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None
    seed: int
    settings: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]
    date: str
    arrays_sha256: str
    sha256: str

    @property
    def dim(self) -> int:
        """2 in plane strain, 3 for solids and problems."""
        return 2 if self.kinematics == "plane_strain" else 3


def write_model(folder: Path, origin: Origin, model: TrainedModel, phases: Mapping[str, LawParameters]) -> None:
    """Write the model folder of a surrogate of one RVE, atomically.

    Args:
        folder: The model folder; replaced if it exists.
        origin: Provenance of the model.
        model: The trained surrogate.
        phases: Parameters of the phases of its RVE, by name.
    """
    from femops.surrogate.stored_rve import described

    stored, mesh = described(model.rve, phases)
    subject = {"kinematics": _KINEMATICS[model.dim], "low": model.low, "high": model.high, "rve": stored}
    _write(folder, origin, Fit(model.arrays, model.settings), subject, mesh)


def write_family_model(
    folder: Path, origin: Origin, fit: Fit, family: Mapping[str, Any], dim: int, low: Array, high: Array
) -> None:
    """Write the model folder of a surrogate of a family of RVEs, atomically.

    Args:
        folder: The model folder; replaced if it exists.
        origin: Provenance of the model.
        fit: The trained surrogate.
        family: The `family` block of the study.
        dim: 2 (plane strain) or 3.
        low: Lower corner of the training range, Mandel [-]. Shape (n_s,).
        high: Upper corner. Shape (n_s,).
    """
    _write(folder, origin, fit, {"kinematics": _KINEMATICS[dim], "low": low, "high": high, "family": family}, {})


def write_problem_model(folder: Path, origin: Origin, fit: Fit, problem: Mapping[str, Any]) -> None:
    """Write the model folder of a surrogate of a problem; arguments as in `write_family_model`."""
    _write(folder, origin, fit, {"problem": problem}, {})


def _write(folder: Path, origin: Origin, fit: Fit, subject: Mapping[str, Any], mesh: Mapping[str, Any]) -> None:
    data = packed({**{_MODEL + name: values for name, values in fit.arrays.items()}, **mesh})
    manifest = {
        "interface": STORE_INTERFACE,
        **asdict(origin),
        "notation": "mandel",
        **subject,
        "settings": fit.settings,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "arrays_sha256": hashlib.sha256(data).hexdigest(),
    }
    written = plain(manifest)
    text = json.dumps({**written, "sha256": checksum(written)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with new_folder(folder) as new:
        write_bytes(new / ARRAYS, data)
        write_bytes(new / MANIFEST, text.encode())


def checksum(manifest: Mapping[str, Any]) -> str:
    """Return the checksum of a manifest without its `sha256` entry."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and verify the manifest of a model folder.

    Raises:
        CaseError: The folder or manifest is missing, damaged, edited, or of another format version.
    """
    folder = present(folder)
    file = folder / MANIFEST
    if not folder.is_dir():
        raise CaseError("does not exist, expected a model folder; femops train STUDY makes one", file=folder)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CaseError(f"has no {MANIFEST}, expected a model folder that femops train wrote", file=folder) from error
    except (ValueError, OSError, RecursionError) as error:
        raise CaseError("is not readable as JSON; train the model again", file=file) from error
    interface = data.get("interface") if isinstance(data, dict) else None
    if interface != STORE_INTERFACE:
        problem = f"interface {interface!r} given, this femops reads {STORE_INTERFACE}; train the model again"
        raise CaseError(problem, file=file)
    try:
        manifest = validated(Manifest, data)
    except CaseError as error:
        raise error.within(file=file) from error
    if manifest.sha256 != checksum(data):
        raise CaseError("is damaged or was edited (its checksum is another one); train the model again", file=file)
    return manifest


def read_model(folder: Path, manifest: Manifest) -> TrainedModel:
    """Read a surrogate of one RVE; the RVE is built when it is first used.

    Args:
        folder: The model folder.
        manifest: Its manifest.

    Raises:
        CaseError: The arrays are missing or damaged, or the model has no RVE.
    """
    arrays = _unpacked(folder, manifest)
    if manifest.rve is None:
        raise CaseError("holds a model without an RVE of its own; expected one of a single RVE", file=folder)

    mesh = {name: values for name, values in arrays.items() if not name.startswith(_MODEL)}

    @cache
    def build() -> "RVE":
        from femops.surrogate.stored_rve import stored_rve  # loads the libraries of meshes

        return stored_rve(folder, manifest, mesh)

    return model_of(Fit(_own(arrays), manifest.settings), build, folder, manifest)


def model_of(fit: Fit, rve: "RVE | Callable[[], RVE]", folder: Path, manifest: Manifest) -> TrainedModel:
    """Return a trained surrogate with its RVE.

    Args:
        fit: Arrays and settings.
        rve: The RVE, or a function that builds it.
        folder: The model folder.
        manifest: Its manifest.

    Raises:
        CaseError: The training range does not fit the strains of the RVE.
    """
    n_s = n_strain(manifest.dim)
    if not finite_range(manifest.low, manifest.high, n_s):
        problem = f"{manifest.low} to {manifest.high} is no range of {n_s} strains"
        raise CaseError(f"{problem}; train the model again", file=present(folder) / MANIFEST, key="low")
    return TrainedModel(fit.arrays, fit.settings, rve, np.array(manifest.low), np.array(manifest.high), folder)


@contextmanager
def of_arrays(folder: Path | None) -> Iterator[None]:
    """Context manager that adds the array file of a model folder, if there is one, to any `StoredArrayError`."""
    try:
        yield
    except StoredArrayError as error:
        if folder is None:
            raise
        raise error.within(file=present(folder) / ARRAYS) from error


def read_family_fit(folder: Path, law: str) -> Fit:
    """Read the fit of a surrogate that was trained on a family.

    Raises:
        CaseError: The model is missing, damaged, or another one.
    """
    manifest = read_manifest(folder)
    if manifest.law != law or manifest.problem is not None:
        raise CaseError(f"holds another model, expected one of {law!r} for a family", file=folder)
    return read_fit(folder, manifest)


def read_fit(folder: Path, manifest: Manifest) -> Fit:
    """Read the arrays and settings of a trained surrogate.

    Raises:
        CaseError: The arrays are missing or damaged.
    """
    return Fit(_own(_unpacked(folder, manifest)), manifest.settings)


def _unpacked(folder: Path, manifest: Manifest) -> dict[str, npt.NDArray[Any]]:
    data = checked_arrays(folder, manifest)
    try:
        return dict(safetensors.numpy.load(data))
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise CaseError("holds no arrays; train the model again", file=present(folder) / ARRAYS) from error


def _own(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(_MODEL): values for name, values in arrays.items() if name.startswith(_MODEL)}


def checked_arrays(folder: Path, manifest: Manifest) -> bytes:
    """Return the content of the array file after verifying its checksum.

    Raises:
        CaseError: The file is missing or damaged.
    """
    file = present(folder) / ARRAYS
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CaseError(f"cannot be read ({error.strerror}); train the model again", file=file) from error
    if hashlib.sha256(data).hexdigest() != manifest.arrays_sha256:
        raise CaseError("is damaged (its checksum is not that of the manifest); train the model again", file=file)
    return data
