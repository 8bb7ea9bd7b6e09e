"""Implementation of `femops evaluate`: a trained solution operator on given data or the test samples of a study."""

from pathlib import Path
from typing import Any

from femops.errors import CaseError
from femops.inputs.study import load_study
from femops.output.atomic import atomic_path, shielded
from femops.output.folder import writing
from femops.output.tables import plain, write_json
from femops.surrogate.registry import surrogate_spec
from femops.surrogate.spec import EvaluationTask, Progress
from femops.surrogate.store import read_manifest

REPORT = "evaluation.json"
_STUDIES = (".yaml", ".yml")
_DPI = 150


def evaluate(model: Path, data: Path, folder: Path, progress: Progress) -> dict[str, Any]:
    """Evaluate a model; write the report and the pictures.

    Args:
        model: The model folder.
        data: A file of data, or a study whose test samples are evaluated.
        folder: Folder of the results.
        progress: Progress callback.

    Returns:
        The report: model, data and the rows of the table.

    Raises:
        CaseError: The model or the data cannot be used, or the folder cannot be written.
    """
    manifest = read_manifest(model)
    evaluate_data = surrogate_spec(manifest.law).evaluate_data
    if evaluate_data is None or manifest.problem is None:
        subject = "a problem" if manifest.problem is not None else "RVEs"
        raise CaseError(f"holds a model of {manifest.law!r} for {subject}, which is evaluated on no data", file=model)
    problem = _problem(data, manifest.law) if data.suffix in _STUDIES else None
    result = evaluate_data(EvaluationTask(model, data, problem, progress))
    report: dict[str, Any] = plain({"model": model, "study": manifest.study, "data": data, "rows": result.rows})
    with writing(folder):
        for name, figure in result.pictures.items():
            with shielded(), atomic_path(folder / f"{name}.png") as temporary:
                figure.savefig(temporary, dpi=_DPI)
        write_json(folder / REPORT, report)
    return report


def _problem(path: Path, law: str) -> Any:
    """Return the `problem` block of a study for the surrogate of a model."""
    study = load_study(path)
    if study.problem is None:
        raise CaseError("missing, expected the problem whose test samples are evaluated", file=path, key="problem")
    if study.surrogate.law != law:
        raise CaseError(f"{study.surrogate.law!r} given, the model is of {law!r}", file=path, key="surrogate.law")
    return study.problem
