"""One process of a run over several: `accelerate launch` or `torchrun` starts it with a file of resolved settings.

    accelerate launch --multi_gpu --num_processes 8 -m selfreward.worker outputs/default/config.json

The run's folder is the folder of that file. `python -m selfreward.run ... --cfg job --resolve` prints such a file, and
`launch=accelerate` does both.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from omegaconf import OmegaConf

from selfreward.config import RunConfig
from selfreward.errors import PeerError
from selfreward.explain import MENDABLE, check_keys, exit_code, explain
from selfreward.group import join, take_one_gpu
from selfreward.launch import LOG, die_with_parent, note_failure

_USAGE = "usage: accelerate launch [...] -m selfreward.worker <file of resolved settings>"


def main() -> None:
    """`<settings> [<folder for a word on failure>]`. A failure of one process ends all, without waiting for any."""
    if len(sys.argv) not in (2, 3):
        sys.exit(_USAGE)
    notes = Path(sys.argv[2]) if len(sys.argv) == 3 else None
    die_with_parent(signal.SIGKILL)
    if os.environ.get("RANK", "0") == "0":  # the others hold nothing that wants an orderly end
        signal.signal(signal.SIGTERM, _stop)
    try:
        work(Path(sys.argv[1]), reports=notes is not None)
    except KeyboardInterrupt:
        _end("stopped; the same command goes on from here", 128 + signal.SIGTERM)
    except PeerError as error:
        _end(f"error: {error}", error.exit_code)
    except BaseException as error:
        said = explain(error)
        if notes:
            see = "" if isinstance(error, MENDABLE) else f", see {LOG}"
            note_failure(notes, said + see, exit_code(error))
        if not isinstance(error, MENDABLE):
            traceback.print_exc()
        _end(f"error: {said}", exit_code(error))


def work(file: Path, *, reports: bool) -> None:
    """Take part in the run whose resolved settings are in `file`. Where it reports to the process that started it, that
    one logs how the run ends."""
    from selfreward.run import follow, prepare  # these take seconds, in which it would outlive its parent
    from selfreward.tracking.run_folder import ending_logged
    from selfreward.training.losses import check_spread
    from selfreward.validation import check_shared_engines

    given: Any = OmegaConf.load(file)
    settings: Any = OmegaConf.to_container(given, resolve=True)
    check_keys(settings)
    cfg: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), given))
    pool = prepare(cfg)
    take_one_gpu()

    def device() -> str:
        from selfreward.model.device import pick_device

        return pick_device(cfg.engine.device)

    group = join(device)
    check_spread(cfg.train, group.size)
    check_shared_engines(cfg, group.size)
    with ending_logged(file.parent) if group.leads and not reports else nullcontext():
        follow(cfg, pool, settings, file.parent, group)
    group.gather(None)  # none ends while another is still at work


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal_number)


def _end(line: str, code: int) -> NoReturn:
    """End this process at once: what it shares with others might make an orderly end wait for them."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
