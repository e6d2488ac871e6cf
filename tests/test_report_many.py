"""A report of many trials reads the study once, and a trial adds little to the page."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "report.py"


@pytest.mark.skipif(not BENCHMARK.exists(), reason="needs the checkout's benchmarks")
def test_the_cost_of_a_report_grows_little_with_its_trials(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("benchmark_report", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    few, many = (module.measured(tmp_path, trials=n, epochs=2) for n in (6, 60))
    for key in ("get_study_user_attrs", "get_all_trials", "get_study_directions"):
        assert few[key] == many[key] <= 20
    assert many["MB"] < 2.5  # of which 2.0 are plotly's script, packed
