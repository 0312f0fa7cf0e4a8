import os
import subprocess
import sys

import numpy as np


def test_the_peak_is_of_this_process_and_not_of_what_started_it():
    held = np.ones(1 << 27)  # 1 GiB, more than the imports of a process
    say = "from tacit.engine.memory import peak_memory; print(peak_memory())"
    alone = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", say], env=alone, capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < held.nbytes
