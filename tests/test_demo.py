"""The demo is stopped by Ctrl-C, and goes on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import tacit

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


def test_a_stopped_demo_goes_on(tmp_path):
    command = [sys.executable, str(DEMO), "--epochs", "4", "--out", str(tmp_path / "demo")]
    run = tmp_path / "demo" / "moby"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as demo:
        while demo.poll() is None and not (tacit.Run.is_run(run) and tacit.Run(run).metrics):
            time.sleep(0.1)
        demo.send_signal(signal.SIGINT)  # steps after the first
        said = demo.stderr.read()
    assert demo.returncode == 1
    assert "Traceback" not in said
    assert "Error: Stopped at step " in said
    assert said.rstrip().endswith("(The demo needs no --resume.)")
    assert tacit.Run(run).summary is None
    steps = int(said.rpartition("Stopped at step ")[2].split()[0])

    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Resuming at step {steps} of" in done.stderr
    assert "20-NN" in done.stdout
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
