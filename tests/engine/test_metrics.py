from tacit.engine.metrics import MetricsFile
from tacit.run import read_csv


def steps(path) -> list[int]:
    return [int(row["step"]) for row in read_csv(path)]


def test_new_names_become_columns_and_old_rows_stay(tmp_path):
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path)
    metrics.append(0, {"loss": 1.5})
    metrics.append(1, {"loss": 1.25, "knn": 0.5})
    assert read_csv(path) == [{"step": "0", "loss": "1.5", "knn": ""}, {"step": "1", "loss": "1.25", "knn": "0.5"}]


def test_a_resumed_run_drops_what_it_will_log_again(tmp_path):
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path)
    for step in range(5):
        metrics.append(step, {"loss": step})
    MetricsFile(path, before=3).append(3, {"loss": 3.0})
    assert steps(path) == [0, 1, 2, 3]


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsFile(path).append(0, {"loss": 1.0})
    with open(path, "a") as f:
        f.write("1,2.")
    assert steps(path) == [0]
    MetricsFile(path, before=5).append(1, {"loss": 2.0})
    assert steps(path) == [0, 1]
