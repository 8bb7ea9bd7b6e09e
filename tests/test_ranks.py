"""The command line on two ranks."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import BIN, BLOCK, NESTED, Femops, on_two_ranks, summary_of, written

from femops.commands import ending
from femops.output.picture import read_step


@pytest.mark.mpi
def test_two_ranks_give_the_same_numbers_and_files_and_print_once(run: Femops, tmp_path: Path) -> None:
    path = written(tmp_path, NESTED)
    run("run", path, "--output", tmp_path / "one")
    done = on_two_ranks("run", path, "--output", tmp_path / "two")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Results in") == done.stdout.count("setting up") + done.stdout.count("step 2/2") == 1
    assert {file.name for file in (tmp_path / "one").iterdir()} == {file.name for file in (tmp_path / "two").iterdir()}
    one, two = summary_of(tmp_path / "one"), summary_of(tmp_path / "two")
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert (one["n_qp"], one["dofs"]) == (two["n_qp"], two["dofs"])
    assert [len(summary["peak_memory"]) for summary in (one, two)] == [1, 2]
    assert all(50e6 < size < 5e9 for summary in (one, two) for size in summary["peak_memory"])
    assert "MiB a rank." in done.stdout
    assert two["quantities"] == pytest.approx(one["quantities"], rel=1e-10)
    ours, theirs = (read_step(tmp_path / name / "block.vtkhdf")[0] for name in ("one", "two"))
    for field in ("strain", "stress"):
        np.testing.assert_allclose(theirs.cell_data[field], ours.cell_data[field], rtol=1e-8, atol=1e-10)


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("command", "changes", "code", "message"),
    [
        ("check", {"steps": {"count": -1}}, 2, "steps.count: -1 given, expected greater than 0"),
        ("check", {"mesh": {"file": "none.msh"}}, 2, "mesh: the mesh file does not exist"),
        ("check", {"supports": {"foot": {"ux": 0.0}}}, 2, "the mesh has no boundary 'foot'"),
        ("check", {"quantities": {"q": {"displacement": "ux", "at": [2, 2]}}}, 2, "lies outside the body"),
        ("check", {"output": {"micro": [{"at": [0.1, 0.1]}]}}, 2, "no law of the case has RVEs"),
        ("run", {"loads": {"right": {"traction": [0, 50]}}, "steps": {"count": 1, "smallest": 1}}, 3, "step 1 stopped"),
    ],
)  # fmt: skip
def test_errors_on_two_ranks_end_both_and_are_printed_once(
    tmp_path: Path, command: str, changes: dict[str, Any], code: int, message: str
) -> None:
    output = ("--output", tmp_path / "results") if command == "run" else ()
    done = on_two_ranks(command, written(tmp_path, BLOCK | changes), *output)
    assert done.returncode == code, done
    assert done.stderr.count("femops: ") == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


FULL_DISK = """
import errno, os, sys
from femops.commands import cli, run
write = run.write_json
def full(path, data):
    if data["finished"] == (sys.argv[1] == "last"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write(path, data)
run.write_json = full
cli.main(sys.argv[2:])
"""


@pytest.mark.mpi
@pytest.mark.parametrize("summary", ["first", "last"])
def test_a_summary_that_cannot_be_written_ends_both_ranks(tmp_path: Path, summary: str) -> None:
    folder = tmp_path / "results"
    case = [str(written(tmp_path, BLOCK)), "--output", str(folder)]
    command = [str(BIN / "mpirun"), "-n", "2", sys.executable, "-c", FULL_DISK, summary, "run", *case]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            printed, said = child.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            pytest.fail(f"a rank was left waiting: {child.communicate()}")
    assert child.returncode == ending.INPUT_ERROR
    assert said == f"femops: {folder}: results cannot be written there (No space left on device)\n"
    assert printed.count("step 2/2") == (summary == "last")
