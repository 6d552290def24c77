"""The memory plan of a run. `python -m selfreward.memory` prints it for any model, without weights or a GPU."""
