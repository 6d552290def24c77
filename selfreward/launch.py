"""A run over several processes: `accelerate launch` starts them, and what ends one of them ends the run.

The settings are composed and checked once and handed on in the run's `config.json`: a worker that composed them anew
could come to others.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from selfreward.config import LaunchConfig
from selfreward.errors import ConfigError, LaunchError
from selfreward.group import DIVIDED
from selfreward.threads import threads_each
from selfreward.tracking.run_folder import SETTINGS_FILE

LOG = "launch.log"
"""Beside the run's log: what accelerate, torch and failing workers write on standard error."""
_SHARDERS = ("FSDP", "DEEPSPEED", "MEGATRON_LM")
_PR_SET_PDEATHSIG = 1  # of Linux's prctl: a signal that this process gets when its parent dies


def launch(cfg: LaunchConfig, folder: Path) -> None:
    """Run the loop in several workers, by the settings in `folder`, and wait for their end.

    Raises `LaunchError` with the line and exit code of the worker that failed first.
    """
    count = _processes(cfg)
    with tempfile.TemporaryDirectory() as notes, (folder / LOG).open("ab") as log:
        worker = [str((folder / SETTINGS_FILE).resolve()), notes]
        process = subprocess.Popen(
            [*_command(cfg, count), "-m", "selfreward.worker", *worker],
            stderr=log,
            start_new_session=True,  # or Ctrl-C would reach all processes at once, each in the midst of something
            preexec_fn=die_with_parent,
        )
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # torch's agent passes it on, and sees each worker end
            process.wait()
            raise
        if code:
            raise _failure(Path(notes), code, folder / LOG)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have the system send this process a signal when the one that started it ends, however that ends (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def note_failure(notes: Path, message: str, exit_code: int) -> None:
    """Leave word of why this process ends, for the one that started the run."""
    (notes / f"{os.getpid()}.json").write_text(json.dumps({"message": message, "exit_code": exit_code}))


def _command(cfg: LaunchConfig, count: int) -> list[str]:
    if count == 1 and not cfg.config_file:
        return [sys.executable]  # accelerate would not pass on what ends it
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(count)]
    if count > 1:
        command.append("--multi_gpu")  # one process for each device; on CPUs too, where accelerate would start but one
    if "OMP_NUM_THREADS" not in os.environ:
        command += ["--num_cpu_threads_per_process", str(threads_each(count))]
    if cfg.config_file:
        return [*command, "--config_file", cfg.config_file]
    return [*command, "--num_machines", "1", "--mixed_precision", "no", "--main_process_port", "0"]


def _processes(cfg: LaunchConfig) -> int:
    """How many to start.

    Raises `ConfigError` for a config file that says no number, or whose processes would each hold part of the model.
    """
    file = _read(cfg.config_file) if cfg.config_file else {}
    if (kind := file.get("distributed_type")) in _SHARDERS:
        raise ConfigError("launch.config_file", cfg.config_file, f"distributed_type: {kind} {DIVIDED}")
    if count := cfg.processes or file.get("num_processes"):
        if not isinstance(count, int):
            raise ConfigError("launch.config_file", cfg.config_file, f"num_processes: {count} is no number; write one")
        return count
    import torch  # only to count, where nobody has said

    return max(torch.cuda.device_count(), 1)


def _read(file: str) -> dict[str, Any]:
    """What a file of `accelerate config` says. Raises `ConfigError` for one that is none."""
    try:
        settings = yaml.safe_load(Path(file).read_text())  # as accelerate does
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            "launch.config_file", file, f"is no YAML ({reason}); `accelerate config` writes one"
        ) from None
    if not isinstance(settings, dict):
        raise ConfigError("launch.config_file", file, "holds no settings; `accelerate config` writes one that does")
    return settings


def _failure(notes: Path, code: int, log: Path) -> LaunchError:
    written = sorted(notes.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not written:
        return LaunchError(f"a worker ended without a word (accelerate's exit code {code}); see the end of {log}")
    note = json.loads(written[0].read_text())
    return LaunchError(note["message"], note["exit_code"])
