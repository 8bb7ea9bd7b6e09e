"""A law written in torch as a program for other processes: of torch.export, or of ONNX."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from femops.devices.torch_library import Tensor, torch


def saved_program(law: torch.nn.Module, n_s: int) -> Mapping[str, bytes]:
    """Return a program of torch.export as `law.pt2`.

    Args:
        law: Maps strains (n, n_s) in double precision to a dictionary of tensors with the points first.
        n_s: Number of strain components.
    """
    file = io.BytesIO()
    torch.export.save(torch.export.export(law, _example(n_s), dynamic_shapes=_any_number()), file)
    return {"law.pt2": file.getvalue()}


def onnx_program(law: torch.nn.Module, n_s: int) -> Mapping[str, bytes]:
    """Return a program of ONNX as `law.onnx`, whose input is `strain` and whose outputs have the dictionary's names.

    Args:
        law: As for `saved_program`, without factorisations and loops that depend on values, which ONNX does not have.
        n_s: Number of strain components.
    """
    import onnx
    from onnxscript import opset20

    def scalar(value: float, dtype: int = onnx.TensorProto.DOUBLE, **_: object) -> object:
        return opset20.Constant(value=onnx.helper.make_tensor("scalar", dtype, (), [value]))

    with _silent_torch(), torch.no_grad():
        program = torch.onnx.export(
            law.eval(),
            _example(n_s),
            dynamo=True,
            verbose=False,
            opset_version=20,
            dynamic_shapes=_any_number(),
            input_names=["strain"],
            output_names=list(law(*_example(n_s))),
            custom_translation_table={torch.ops.aten.scalar_tensor.default: scalar},  # torch's rounds to float32
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # lines of the source files on this machine
    return {"law.onnx": model.SerializeToString(deterministic=True)}


def _example(n_s: int) -> tuple[Tensor]:
    return (torch.zeros((3, n_s), dtype=torch.float64),)


def _any_number() -> tuple[dict[int, object]]:
    return ({0: torch.export.Dim("n", min=0)},)


@contextmanager
def _silent_torch() -> Iterator[None]:
    """Leave out what the exporter says about torchvision and about deprecated functions in itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
