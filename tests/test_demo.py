"""The demo is stopped by Ctrl-C, and goes on."""

import signal
import subprocess
import sys
from pathlib import Path

import tacit

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


def test_a_stopped_demo_goes_on(tmp_path):
    command = [sys.executable, str(DEMO), "--epochs", "2", "--out", str(tmp_path / "demo")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as demo:
        for line in demo.stderr:
            if line.startswith("step "):
                demo.send_signal(signal.SIGINT)
                break
        rest = demo.stderr.read()
    assert demo.returncode == 1
    assert "Traceback" not in rest
    said = rest.splitlines()[-1]
    assert said.startswith("Error: Stopped at step ")
    assert said.endswith("(The demo needs no --resume.)")
    assert tacit.Run(tmp_path / "demo" / "moby").summary is None

    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first = int(next(line for line in done.stderr.splitlines() if line.startswith("step ")).split()[1].split("/")[0])
    assert first > int(said.split()[4])
    assert "20-NN" in done.stdout
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
