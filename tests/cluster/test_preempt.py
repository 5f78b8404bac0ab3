"""When to stop: a signal sets a flag, a second one leaves at once, and the end of the job's time is like a signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.preempt import Stop, end_of_job, seconds_of
from configs.errors import REQUEUE, UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_sets_a_flag_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Stop() as stop:
        assert not stop.asked
        signal.raise_signal(number)
        assert stop.asked and stop.reason == f"signal {number.name}"
        signal.raise_signal(number)  # the same one, sent to the group as well
    assert signal.getsignal(number) == before


def test_a_second_signal_leaves_at_once() -> None:
    body = "import time\nfrom cluster.preempt import Stop\nwith Stop():\n  print('ready', flush=True)\n  time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", body], env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(2.5)
    assert process.poll() is None, "the first one waits for the step's end"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == REQUEUE


def test_the_end_of_the_jobs_time_is_like_a_signal() -> None:
    stop = Stop(end=time.time() + 100.0)
    assert not stop.asked
    stop.needs = 101.0
    assert stop.asked and stop.reason == "the end of the job's time"


def test_the_sooner_end_counts() -> None:
    assert end_of_job({}, None, 50.0) is None
    assert end_of_job({"SLURM_JOB_END_TIME": "1000"}, None, 50.0) == 1000.0
    assert end_of_job({"SLURM_JOB_END_TIME": "1000"}, 60.0, 50.0) == 110.0


@pytest.mark.parametrize("text", ["", "1:2:3:4", "x", "-5", "1.5"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a time such as"):
        seconds_of(text)
