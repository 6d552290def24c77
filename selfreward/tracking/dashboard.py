"""W&B, filled from the manifests: a reused stage shows there like a computed one.

An interrupted offline run can't be continued (wandb#4624), so each attempt is a run of its own, in a group named
after the run. Nothing that fails in W&B, its network, its service or its disk ends a run of ours.
"""

from __future__ import annotations

import configparser
import netrc
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selfreward.config import TrackingConfig
from selfreward.errors import ConfigError, first_line
from selfreward.tracking.metrics import Iteration, summary
from selfreward.tracking.shown_prompts import shown_prompts

_FINISH_SECONDS = 120
_LONGEST_GROUP = 128  # characters that W&B takes
_COLUMNS = ("iteration", "prompt", "candidate", "score", "tokens", "role")


class Dashboard:
    """One W&B run, begun with the first iteration that is logged."""

    def __init__(
        self,
        folder: Path,
        tracking: TrackingConfig,
        group: str,
        settings: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._tracking = tracking
        self._group = group
        self._settings = settings
        self._warn = warn
        self._mode = resolve_mode(tracking.wandb)
        self._run: Any = None
        self._failed = self._mode == "disabled"
        self._steps = 0
        self._parts: set[str] = set()

    @property
    def has_all(self) -> bool:
        """Whether W&B took all that it was given."""
        return not self._failed

    def log(self, number: int, iteration: Iteration) -> None:
        """Log an iteration's metrics, its training curve, and some of its candidates."""
        self._guarded(lambda: self._log(number, iteration))

    def finish(self, *, failed: bool) -> None:
        """End the W&B run, as failed or finished. A service that doesn't answer is left behind after two minutes."""
        if self._run is None:
            return
        end = partial(self._run.finish, exit_code=int(failed or self._failed))
        thread = threading.Thread(target=lambda: self._tried(end), daemon=True)
        thread.start()
        thread.join(_FINISH_SECONDS)
        if thread.is_alive():
            self._warn(f"W&B did not finish within {_FINISH_SECONDS} s; its files are in {self._folder / 'wandb'}")
        self._run = None

    def _guarded(self, action: Callable[[], None]) -> None:
        if not self._failed:
            self._tried(action)

    def _tried(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a dashboard is a mirror: whatever breaks in it, the run goes on
            if not self._failed:
                self._warn(f"W&B failed and is left out from here on: {first_line(error)}")
            self._failed = True

    def _begin(self) -> Any:
        import wandb  # takes a second to import, and a run that finds all complete logs nothing

        os.environ.setdefault("WANDB_SILENT", "true")
        mode: Any = self._mode
        run = wandb.init(
            project=self._tracking.project or os.environ.get("WANDB_PROJECT") or "selfreward",
            group=os.environ.get("WANDB_RUN_GROUP") or self._group[:_LONGEST_GROUP],
            dir=os.environ.get("WANDB_DIR") or str(self._folder),
            mode=mode,
            config=dict(self._settings),
            settings=wandb.Settings(console="off", init_timeout=60, silent=True, reinit="finish_previous"),
        )
        run.define_metric("iteration")
        run.define_metric("steps/step")
        run.define_metric("steps/*", step_metric="steps/step")
        return run

    def _log(self, number: int, iteration: Iteration) -> None:
        import wandb

        if self._run is None:
            self._run = self._begin()
        values: dict[str, Any] = {"iteration": number, **summary(iteration)}
        if number:
            rows: Any = example_rows(number, iteration, self._tracking.examples)
            values["candidates/examples"] = wandb.Table(list(_COLUMNS), rows)
            values["judgements/scores"] = wandb.Histogram(iteration["judgements"].metrics["scores"])
            self._log_steps(iteration["policy"].metrics)
        parts = {name.partition("/")[0] for name in values if "/" in name} - self._parts
        for part in sorted(parts):  # each by itself: of two patterns that a name fits, W&B takes either
            self._run.define_metric(f"{part}/*", step_metric="iteration")
        self._parts |= parts
        self._run.log(values)

    def _log_steps(self, metrics: Mapping[str, Any]) -> None:
        curves = {name: metrics[name] for name in ("loss", "reward_margin", "reward_accuracy", "gradient_norm")}
        for values in zip(*curves.values(), strict=True):
            self._steps += 1
            named = {f"steps/{name}": value for name, value in zip(curves, values, strict=True)}
            self._run.log({"steps/step": self._steps, **named})


def resolve_mode(mode: str) -> str:
    """`auto` is what WANDB_MODE says, otherwise online where there is an API key, and offline where there is none.

    Raises `ConfigError` for `online` without a key: W&B would stop and ask for one.
    """
    said = os.environ.get("WANDB_MODE") if mode == "auto" else mode
    if said == "online" and not _has_api_key():
        where = " (from WANDB_MODE)" if mode == "auto" else ""
        remedy = f"there is no API key{where}; set WANDB_API_KEY, or use offline"
        raise ConfigError("tracking.wandb", said, remedy)
    return said or ("online" if _has_api_key() else "offline")


def example_rows(number: int, iteration: Iteration, prompts: int) -> list[list[Any]]:
    """The candidates of the iteration's first prompts, the best of each first, with their scores and roles."""
    return [
        [number, one.prompt, a.candidate.text, a.judgement.score, len(a.candidate.token_ids), a.role]
        for one in shown_prompts(iteration, prompts)
        for a in one.candidates
    ]


def _has_api_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return netrc.netrc(path).authenticators(urlsplit(_server()).netloc) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _server() -> str:
    """The address of W&B's server: what the environment says, or `wandb login --host` has noted, or the public one."""
    noted = configparser.ConfigParser(interpolation=None)
    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    with suppress(OSError, UnicodeDecodeError, configparser.Error):
        noted.read(Path(folder).expanduser() / "settings")
    public = "https://api.wandb.ai"
    return os.environ.get("WANDB_BASE_URL") or noted.get("default", "base_url", fallback=public)
