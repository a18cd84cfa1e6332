import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks/gpu.py"


def test_the_gpu_benchmark_runs_where_there_is_none(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--model", "tiny", "--pairs", "128",
               "--recipes", "plain", "lora", "--out", str(out)]  # fmt: skip
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (device,) = json.loads(out.read_text("utf-8")).values()
    assert set(device["runs"]) == {"plain-fp32", "lora-fp32"}
    lora = device["runs"]["lora-fp32"]
    assert lora["steps"] == 2 and lora["trainable_parameters"] > 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| plain-fp32", "| lora-fp32"]
    share = lora["flops_a_pair"] * lora["pairs_per_second"] / device["matmul_flops"]["fp32"]
    assert 0 < share < 1 and f"{share:.0%} |" in lines[-1]
    assert "lora-fp32, 50,000 pairs, an epoch:" in done.stdout
