"""How judges are shown what was to be answered: a request, and apart from it the conversation that it ends.

A small judge that was taught on requests alone judges worse where a conversation stands in a request's place
(experiments/2026-11-26-seed-tuning).
"""

from __future__ import annotations

from selfreward.conversation import last_request
from selfreward.texts import fill, read_text

REQUEST, CONVERSATION = (read_text(__file__, name) for name in ("request.txt", "conversation.txt"))
TEXTS = (REQUEST, CONVERSATION)


def show(prompt: str) -> str:
    """The sections of a judge's message that say what was asked."""
    before, request = last_request(prompt)
    return fill(CONVERSATION, before=before, prompt=request) if before else fill(REQUEST, prompt=request)
