"""The command line as people meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from selfreward.run import main

TINY = [
    "model.dtype=float32",
    "train.reference_logprobs=computed",
    "prompts.per_iteration=4",
    "prompts.held_out=4",
    "sampling.n=2",
    "sampling.max_new_tokens=8",
    "evaluation.max_new_tokens=8",
    "train.batch_size=2",
    "train.learning_rate=1e-3",
    "memory.micro_batch=1",
]


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "selfreward.run", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trian.beta=0.1", "did you mean train.beta?"),
        ("train.betta=0.1", "train.betta=...: there is no such key; did you mean train.beta?"),
        ("+train.gamma=0.1", "train.gamma=...: there is no such key"),
        ("iteration=-1", "iteration=-1: use a number of at least 0"),
        ("iteration=three", "iteration=three: Value 'three' of type 'str' could not be converted to Integer"),
        ("sampling.n=-1", "sampling.n=-1: use a number of at least 2"),
        ("train.loss=dpoo", "train.loss=dpoo: use one of sigmoid"),
        ("judge.mode=median", "judge.mode=median: use one of expected, sampled"),
        ("train.max_length=100", "train.max_length=100: candidates may have 608 tokens"),
        ("prompts=file prompts.path=nowhere.jsonl", "prompts.path=nowhere.jsonl: there is no such file"),
        ("prompts=file prompts.path=empty.jsonl", "prompts.path=empty.jsonl: holds no prompt"),
        ("tuning.ratings.path=nowhere.jsonl", "tuning.ratings.path=nowhere.jsonl: there is no such file"),
        ("people.path=nowhere.jsonl", "people.path=nowhere.jsonl: there is no such file"),
        ("documents.path=nowhere", "documents.path=nowhere: there is no such file"),
        (
            "prompts=file prompts.path=two.jsonl prompts.prompt_column=text",
            "prompts.prompt_column=text: two.jsonl has the columns question",
        ),
        ("output_dir=/proc/nothing/run", "output_dir=/proc/nothing/run: can't be written"),
        ("model.name=empty_model", "model.name=empty_model: empty_model has no .safetensors file"),
        ("engine.merge_adapter=true", "train.reference=previous: a model with its adapter merged"),
        ("tracking.wandb=online", "tracking.wandb=online: there is no API key"),
        ("model=llama4", "llama4"),
        ("-m iteration=1,2", "iteration=1,2: iteration=N makes all policies up to N; sweep over something else"),
        ("-m artifacts_dir=a,b", "artifacts_dir=a,b: all points would have one folder; sweep over something else"),
        ("hydra.mode=MULTIRUN iteration=1,2", "iteration=1,2: iteration=N makes all policies up to N; sweep over"),
        ("-m memory.micro_batch=1,2", "memory.micro_batch=1,2: all points would have one folder; sweep over something"),
        ("hydra.run.dir=elsewhere", "hydra.run.dir=elsewhere: a run makes its own folder: set output_dir"),
        ("-m seed=0,1 hydra.job.chdir=True", "hydra.job.chdir=True: a run stays where the command is given"),
        (
            "name=week/one",
            "name=week/one: its artifacts would lie apart from those of other runs; use a name without /",
        ),
        ("prompts.path=two.jsonl", "prompts.path=two.jsonl: prompts=seed_pool reads none; set prompts=file too"),
        ("judge.engine=outside", "judge.engine=outside: engines has none; +engine@engines.outside=<choice> adds it"),
        ("engine@engines.outside=hf", "engine@engines.outside=...: there is no such engine or setting; +engine@"),
        ("engines.outside.device=cpu", "engines.outside.device=...: there is no such engine or setting; +engine@"),
        ("engines={g:{kind:hf}}", "engines=...: there is no such engine or setting; +engine@"),
        ("+engines.outside.kind=hf", "engines.outside.kind=...: there is no such engine or setting; +engine@"),
        ("+engine@engines.outside=steam", "steam"),
        ("+engine@engines.outside=hf +engines.outside.heat=1", "engines.outside.heat=...: there is no such engine or"),
        ("+engine@engines.outside=hf engines.outside.device=tpu", "engines.outside.device=tpu: use one of auto, cpu"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    said: str,
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "two.jsonl").write_text('{"question": "a"}\n{"question": "b"}\n')
    (tmp_path / "empty_model").mkdir()
    (tmp_path / "empty_model" / "config.json").write_text("{}")
    for key, value in {"HOME": str(tmp_path), "HYDRA_FULL_ERROR": "0"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["selfreward", *override.split()])
    with pytest.raises(SystemExit) as exit:
        main()
    error = capsys.readouterr().err
    assert (exit.value.code, error.count("\n")) == (2, 1), error
    assert error.startswith("error: ")
    assert said in error


def test_the_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    result = command("train.beta=-1", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "error: train.beta=-1.0: use a number above 0\n")


def test_help_is_written_for_people(tmp_path: Path) -> None:
    result = command("--help", cwd=tmp_path)
    assert result.returncode == 0
    for text in ("make policy 3 exist", "train.beta", "judge: ensemble, expected, length, sampled, verifier"):
        assert text in result.stdout


def test_the_configuration_can_be_shown_without_running(tmp_path: Path) -> None:
    shown = command("--cfg", "job", "--resolve", "experiment=quick", cwd=tmp_path)
    assert shown.returncode == 0
    assert "name: quick" in shown.stdout and "output_dir: outputs/quick" in shown.stdout
    assert command("--info", "defaults", cwd=tmp_path).returncode == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_leaves_what_people_look_for_and_then_answers_at_once(tiny_model: Path, tmp_path: Path) -> None:
    arguments = (f"model.name={tiny_model}", *TINY, "iteration=1")
    first = command(*arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    run = tmp_path / "outputs" / "default"
    assert {"config.json", "lineage.json", "run.log", "report.html", "iterations", "wandb"} <= {
        p.name for p in run.iterdir()
    }
    assert (run / "iterations" / "1" / "policy" / "adapter_model.safetensors").is_file()
    assert json.loads((run / "config.json").read_text())["train"]["beta"] == 0.1
    assert "outputs/default/report.html" in first.stdout

    again = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "selfreward.run", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0
    assert "All of policy 1 was there already: nothing was computed." in again.stdout
    imported = {
        line.rsplit("|", 1)[-1].strip() for line in again.stderr.splitlines() if line.startswith("import time:")
    }
    assert "hydra" in imported
    assert not imported & {"torch", "transformers", "peft", "trl", "wandb", "matplotlib"}


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_so_and_goes_on(tiny_model: Path, tmp_path: Path, sent: signal.Signals) -> None:
    arguments = [f"model.name={tiny_model}", *TINY, "iteration=1", "tracking.wandb=disabled", "tracking.report=false"]
    process = subprocess.Popen(
        [sys.executable, "-m", "selfreward.run", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "candidates" in line:
            process.send_signal(sent)
            break
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + sent
    assert error == "stopped; the same command goes on from here\n"
    again = command(*arguments, cwd=tmp_path)
    assert again.returncode == 0
    assert "artifacts reused" in again.stdout


@pytest.mark.slow
def test_policy_0_alone_leaves_a_report_and_links_at_the_first_run(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Say {n}.", "responses": [{"response": "Yes.", "rank": 0}, {"response": "No!", "rank": 1}]}
        for n in range(6)
    ]
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    people = ["people.path=people.jsonl", "people.format=groups"]
    result = command(f"model.name={tiny_model}", *TINY, "iteration=0", *people, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "outputs" / "default"
    assert (run / "report.html").is_file() and (run / "lineage.json").is_file()
    assert (run / "iterations/0/agreement/manifest.json").is_file()
    assert "its judge and people" in result.stdout


@pytest.mark.slow
def test_a_sweep_gives_each_point_a_folder_and_shares_what_they_share(tiny_model: Path, tmp_path: Path) -> None:
    result = command("-m", f"model.name={tiny_model}", *TINY, "iteration=1", "train.beta=0.05,0.2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    artifacts = tmp_path / "outputs" / "artifacts"
    stages = {
        stage.name: len(list(stage.glob("*/manifest.json"))) for stage in artifacts.iterdir() if stage.name[0] != "."
    }
    # Policy 0 and two others; held-out answers of all three; all of iteration 1 before training once.
    once = {"leaks": 1, "gate": 1, "pairs": 1, "references": 1, "parity": 3}
    assert stages == {"policies": 3, "prompts": 3, "candidates": 4, "judgements": 4, "evaluations": 3, **once}
    points = [path.parent for path in (tmp_path / "outputs" / "default").glob("*/report.html")]
    assert {json.loads((point / "config.json").read_text())["train"]["beta"] for point in points} == {0.05, 0.2}
