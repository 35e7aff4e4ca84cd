"""The tutorials as notebooks: the code of their pages, and it runs; progress shows there."""

import importlib
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WHY = "needs the extra notebooks: pip install -e '.[notebooks]'"


@pytest.fixture
def notebooks(monkeypatch):
    pytest.importorskip("jupytext", reason=WHY)
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    return importlib.import_module("notebooks")


def test_a_notebook_has_the_code_of_its_page(notebooks):
    assert len(notebooks.PAGES) == 5
    for page in notebooks.PAGES:
        made = notebooks.notebook(page)
        code = [cell.source.strip() for cell in made.cells if cell.cell_type == "code"]
        assert code == [block.strip() for block in BLOCK.findall(page.read_text())]
        assert not re.search(r"\]\((?!http)", "".join(cell.source for cell in made.cells if cell not in code))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebooks_run(notebooks):
    pytest.importorskip("nbclient", reason=WHY)
    for page in notebooks.PAGES:
        made = notebooks.executed(notebooks.notebook(page))
        assert any(cell.get("outputs") for cell in made.cells)


FIT = """
import jax.numpy as jnp, optax
import bilevel as bl
task = bl.Task(
    inner=bl.InnerProblem(loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(h) * w**2,
                          init=lambda key, h: jnp.zeros(())),
    outer_loss=lambda w, h, batch: 0.5 * (w - batch) ** 2, init_hparams=lambda key: jnp.zeros(()),
    batches=bl.full_batch(4.0, 1.0))
result = bl.Trainer(optimizer=optax.adam(0.1), steps=3).fit(task, progress=True)
"""


@pytest.mark.slow
def test_progress_shows_in_a_notebook():
    nbformat = pytest.importorskip("nbformat", reason=WHY)
    nbclient = pytest.importorskip("nbclient", reason=WHY)
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(FIT)])
    made = nbclient.NotebookClient(made, timeout=300, kernel_name="python3").execute()
    shown = "".join(
        output.get("text", "") or "".join(output.get("data", {}).get("text/html", ""))
        for output in made.cells[0].outputs
    )
    assert "outer loss" in shown and "seconds" in shown, shown[:2000]  # the table at the end
    assert "Traceback" not in shown and "ipywidgets" not in shown
