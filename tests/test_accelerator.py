"""The benchmarks of experiments/peers on whatever device there is."""

import csv

import accelerator
import pytest


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["accelerator.py", *map(str, arguments)])
    accelerator.main()


def test_a_benchmark_that_does_not_exist_is_refused_before_anything_runs(monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit):
        run(monkeypatch, "qp", "chess", "--out", tmp_path)
    assert "no benchmark chess: there are qp, svm" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_benchmark_of_the_list_exists():
    assert all((accelerator.PEERS / f"{name}.py").is_file() for name in accelerator.BENCHMARKS)


@pytest.mark.slow
def test_results_are_kept_by_device(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "scaling", "--smoke", "--out", tmp_path)
    (folder,) = tmp_path.iterdir()
    with (folder / "scaling.csv").open() as stream:
        assert {row["device"] for row in csv.DictReader(stream)} == {accelerator.device()}
    assert "scaling: done" in capsys.readouterr().out
