"""`python -m selfreward.run iteration=3`: compose the settings, check them, run the loop, report."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from selfreward.cap import MemoryMeter, available_gb, let_segments_grow
from selfreward.compose import CONF, register
from selfreward.config import RunConfig, artifacts_dir
from selfreward.errors import ConfigError
from selfreward.explain import MENDABLE, check_keys, exit_code, explain, let_go
from selfreward.group import ALONE, Group, take_one_gpu
from selfreward.kinds import check_settings
from selfreward.launch import launch
from selfreward.loop import loop
from selfreward.model import model_files
from selfreward.sources import SOURCES
from selfreward.sources.pool import Pool
from selfreward.stages.tools import Tools
from selfreward.store import Store
from selfreward.store.observer import Observer, Silent
from selfreward.tracking.console import RunConsole
from selfreward.tracking.dashboard import resolve_mode
from selfreward.tracking.metrics import Iteration, objective
from selfreward.tracking.mirror import mirror
from selfreward.tracking.run_folder import LOG, ending_logged, held, linked, write_settings
from selfreward.validation import check_folders

_SHOWS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"  # as a person set it, before `main` does

register()


_OF_HYDRA = {
    "hydra.run.dir": "a run makes its own folder: set output_dir",
    "hydra.job.chdir=true": "a run stays where the command is given, or its paths would lead elsewhere: leave it out",
}
"""Settings that would move a run from its place, and what to do instead."""


def main() -> None:
    """The command line. A mistake of a person's is one line on standard error and exit code 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its own errors, over several lines
    signal.signal(signal.SIGTERM, _stop)
    try:
        _check_command(sys.argv[1:])
        _command()
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        sys.exit(_complain("stopped; the same command goes on from here", 128 + number))
    except MENDABLE as error:
        if _SHOWS_TRACEBACK:
            raise
        _fail(error)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _command(cfg: DictConfig) -> float:
    hydra_config = HydraConfig.get()
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    try:
        settings: Any = OmegaConf.to_container(cfg, resolve=True)
        check_keys(settings)
        typed: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), cfg))
        return run(typed, settings, Path(hydra_config.runtime.output_dir if sweeping else typed.output_dir))
    except Exception as error:
        if sweeping:
            point = hydra_config.job.override_dirname
            _complain(f"this point of the sweep failed ({point}): {explain(error)}", exit_code(error))
            let_go(error)
        if sweeping or _SHOWS_TRACEBACK or not isinstance(error, MENDABLE):
            raise
        _fail(error)  # past Hydra, which would add a line of its own


def run(cfg: RunConfig, settings: dict[str, Any], folder: Path) -> float:
    """Make policy `cfg.iteration` exist and show what it came to, in this process or in others that it starts.

    Returns its win rate over policy 0 (see `objective`), for sweepers that look for the best settings.
    """
    pool = prepare(cfg)
    with ending_logged(folder), held(folder, ".launch.lock"):
        if cfg.launch.kind == "single":
            take_one_gpu()
            return follow(cfg, pool, settings, folder)
        with held(folder):  # the processes read these settings, and hold the folder themselves
            write_settings(folder, settings)
        launch(cfg.launch, folder)
        return objective(linked(folder, cfg.iteration))


def prepare(cfg: RunConfig) -> Pool:
    """Check the settings and what they point at, and read the prompts."""
    _quieten()
    let_segments_grow()
    check_settings(cfg)
    resolve_mode(cfg.tracking.wandb)
    pool = SOURCES[cfg.prompts.kind](cfg.prompts, cfg.data)
    if cfg.generation.kind == "none" and cfg.iteration:
        pool.check(cfg.prompts.per_iteration)
    check_folders(cfg)
    return pool


def follow(cfg: RunConfig, pool: Pool, settings: dict[str, Any], folder: Path, group: Group = ALONE) -> float:
    """Go through the loop, with the other processes of `group`. The first of them shows what it comes to."""
    if not group.leads:
        iterations = list(_steps(cfg, pool, folder, Silent(), lambda _: None, group))
        return objective(iterations[-1])
    with held(folder):
        console = RunConsole(folder / LOG)
        try:
            console.say(f"selfreward: policy {cfg.iteration} of {cfg.model.name} in {cfg.model.dtype}, in {folder}")
            console.say(f"artifacts, which runs share, in {artifacts_dir(cfg)}")
            steps = _steps(cfg, pool, folder, console, console.say, group)
            write_settings(folder, settings)
            iterations = mirror(cfg, settings, folder, console, steps)
        finally:
            console.close()
    return objective(iterations[-1])


def _steps(
    cfg: RunConfig, pool: Pool, folder: Path, observer: Observer, say: Callable[[Any], None], group: Group
) -> Iterator[Iteration]:
    """The loop. Files that have to be fetched are fetched by the first process, and then found by the others."""

    def find() -> Path:
        return model_files.locate(cfg.model.name, cfg.model.revision, say)

    first = group.broadcast(find)
    model_folder = first if group.leads else find()
    identity = group.broadcast(lambda: model_files.identify(model_folder, cfg.model.dtype, cfg.train.quantization))
    tools = Tools(pool, model_folder, folder, cfg, say, _available_gb(cfg, group))
    store = Store(artifacts_dir(cfg), tools, observer, MemoryMeter(cfg.memory.cap_gb), group)

    def steps() -> Iterator[Iteration]:
        with closing(tools):
            yield from loop(cfg, identity, store)

    return steps()


def _available_gb(cfg: RunConfig, group: Group) -> float | None:
    """What each of several processes could take: they cut their work alike, or their parts would not fit together."""
    if group.size == 1:
        return None
    from selfreward.model.device import pick_device

    return min(group.gather(available_gb(pick_device(cfg.engine.device))))


def _quieten() -> None:
    """Keep the libraries' own bars and warnings out of ours, which they would tear, and have them report to nobody."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # trl would tell the hub of each run
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module="transformers|peft|trl|torch|datasets|huggingface_hub")


def _check_command(arguments: Sequence[str]) -> None:
    """Raise `ConfigError` for a sweep whose points would be one run in one folder, and for what of Hydra's would move a
    run from its place."""
    sweeping = bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & {*arguments})
    parser = OverridesParser.create()
    in_no_name = OmegaConf.load(CONF / "config.yaml").hydra.job.config.override_dirname.exclude_keys
    for argument in arguments:
        with suppress(HydraException):  # an option, or a mistake that Hydra names
            override = parser.parse_override(argument)
            key, value = override.key_or_group, argument.partition("=")[2]
            if remedy := _OF_HYDRA.get(f"{key}={value.lower()}" if key == "hydra.job.chdir" else key):
                raise ConfigError(key, value, remedy)
            if sweeping and key in in_no_name and override.is_sweep_override():
                why = "all points would have one folder"
                if key == "iteration":
                    why = "iteration=N makes all policies up to N"
                raise ConfigError(key, value, f"{why}; sweep over something else")


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal_number)


def _fail(error: BaseException) -> NoReturn:
    sys.exit(_complain(f"error: {explain(error)}", exit_code(error)))


def _complain(line: str, exit_code: int) -> int:
    print(line, file=sys.stderr)  # noqa: T201
    return exit_code


if __name__ == "__main__":
    main()
