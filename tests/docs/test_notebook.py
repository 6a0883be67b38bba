"""The notebook runs from its first cell to its last, and its committed outputs are small and complete."""

from __future__ import annotations

import os
import shutil

import nbformat
import pytest
from pages import ROOT

PATH = ROOT / "notebooks" / "cql_from_theory_to_training.ipynb"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_its_outputs_are_committed_and_small():
    cells = code_cells(nbformat.read(PATH, 4))
    assert PATH.stat().st_size < 1_500_000
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [{kind for output in cell.outputs for kind in output.get("data", {})} for cell in cells]
    assert sum("image/png" in kind for kind in kinds) >= 3  # the theory's figure, the curves, the report's figure
    assert sum("image/gif" in kind for kind in kinds) == 1
    text = PATH.read_text(encoding="utf-8")
    assert "Traceback" not in text
    assert str(ROOT) not in text


@pytest.mark.slow
@pytest.mark.ci
def test_it_runs_with_fewer_steps(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("CQL_NOTEBOOK_STEPS", "24")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("cql", "configs", "scripts", "docs"):  # what a clone has beside the notebook
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(PATH, folder)
    notebook = nbformat.read(PATH, 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    last = code_cells(notebook)[-1].outputs
    assert "one episode with the checkpoint of step 24: return" in "".join(output.get("text", "") for output in last)
