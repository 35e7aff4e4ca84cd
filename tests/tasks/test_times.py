"""The table of docs/tasks.md: every task that runs by itself is in it, and none takes longer than the page says."""

import re
from pathlib import Path

from bilevel.cli.choices import files

PAGE = Path(__file__).resolve().parents[2] / "docs/tasks.md"
WITHOUT = {"own", "meta_omniglot", "meta_omniglot_maml"}  # no task by itself; these need files that do not ship
LIMIT = 90  # seconds


def test_a_default_run_of_each_task_ends_in_time():
    text = PAGE.read_text(encoding="utf-8").split("## How long they take")[1]
    seconds = {task: int(time) for task, time in re.findall(r"^\| `(\w+)` \| (\d+) \|", text, re.MULTILINE)}
    assert set(seconds) == set(files("task")) - WITHOUT
    most = re.search(r"none takes more than (\d+) processor seconds", text)
    assert most and max(seconds.values()) <= int(most[1]) <= LIMIT
