"""Over many outer steps the memory of a run grows by its record alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import json, sys
sys.path.insert(0, "scripts")
import optax
import bilevel as bl
from steps_per_call import ridge

memory = []

def watch(moment):
    if moment.step % 2000 == 0:
        with open("/proc/self/statm") as file:
            memory.append(4096 * int(file.read().split()[1]))

trainer = bl.Trainer(
    optimizer=optax.adam(1e-3), steps=20_000, steps_per_call=50, checkpoint_every=1000, callbacks=[watch]
)
result = trainer.fit(ridge(), directory=sys.argv[1])
print(json.dumps({"memory": memory, "steps": len(result.metrics), "line": len(result.metrics[0])}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc")
def test_twenty_thousand_steps_grow_by_their_record_alone(tmp_path):
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "MALLOC_ARENA_MAX": "2"}
    command = [sys.executable, "-c", RUN, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["steps"] == 20_000 and len(found["memory"]) == 10
    grown = (found["memory"][-1] - found["memory"][1]) / 16_000
    # A number of a line takes 24 bytes, and its place in a dict up to twice 8 + 8 + 8.
    assert grown < 24 * found["line"] + 48 * found["line"] + 500
