"""Programs that tests start in processes of their own are no modules of tests."""

collect_ignore = ["two_processes.py"]  # imports its neighbour, which only a program beside it can
