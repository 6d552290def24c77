"""Any server that speaks OpenAI's completions API and takes and returns token ids: vLLM, on this machine or many.

Each answer is a request of its own, not `n` to a request: each has its seed, one that fails is asked again alone, and
the prompt that they share is computed once all the same, for servers keep what requests begin with in common.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from selfreward.engines.base import SHORTEN, Advance, Completion, Decoding, SampleRequest
from selfreward.engines.remote.client import Client, MalformedError, Request
from selfreward.errors import ModelError, ServerError
from selfreward.model.adapters import Adapter
from selfreward.model.chat import Chat

Result = TypeVar("Result")
Body = dict[str, Any]
Choice = dict[str, Any]

_LIKELIEST = 20  # log-probabilities asked for where a server can't be asked for those of certain tokens
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"  # in the place of half a letter
_NEGLIGIBLE = 1e-3  # of the choices' probability: what those that don't come back may have had at most
_OPEN = {  # which the model's own settings, or the server's, would decide
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


class ServerEngine:
    """Samples and scores on the server that `client` speaks to.

    Args:
        chat: the tokenizer and template of the model that the server runs.
        model: what the server calls that model; None takes the first that it lists.
        seeded: send each answer's seed.
        outside: the model is another than the run's: no adapter of the run fits it.
    """

    def __init__(self, client: Client, chat: Chat, *, model: str | None, seeded: bool, outside: bool = False) -> None:
        self._client, self._chat = client, chat
        self._model, self._seeded, self._outside = model, seeded, outside
        self._longest: int | None = None
        self._spelled: Counter[str] | None = None  # how many tokens have each text
        self._adapters: set[Adapter] = set()

    @property
    def chat(self) -> Chat:
        return self._chat

    def sample(
        self, requests: Sequence[SampleRequest], decoding: Decoding, adapter: Adapter | None, advance: Advance
    ) -> list[list[Completion]]:
        """For each request one answer a seed."""
        asked = [(request, place) for request in requests for place in range(len(request.seeds))]

        def body(request: SampleRequest, place: int) -> Body:
            seed = {"seed": request.seeds[place]} if self._seeded else {}
            return seed | {
                "max_tokens": decoding.max_new_tokens,
                "temperature": decoding.temperature,
                "top_p": decoding.top_p,
                "logprobs": 1,
                "stop_token_ids": self._chat.end_ids,
            }

        def done(index: int, completion: Completion) -> None:
            request, place = asked[index]
            prompt = 0 if place else len(request.prompt_ids)
            advance(1 / len(request.seeds), prompt + len(completion.token_ids))

        prompts = [request.prompt_ids for request, _ in asked]
        bodies = [body(request, place) for request, place in asked]
        read = partial(_completion, self._chat.end_ids)
        answers = iter(self._send(prompts, bodies, adapter, lambda _, choice: read(choice), done))
        return [[next(answers) for _ in request.seeds] for request in requests]

    def score(
        self, prompts: Sequence[list[int]], choice_ids: Sequence[int], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        """One token a prompt, with the log-probability of each choice.

        A server that can't be asked for certain tokens gives those of the likeliest; a choice that is not among them
        has probability 0, where it can't have had more than next to nothing.

        Raises `ServerError` where it can, or where none of the choices is among them.
        """
        body = {"max_tokens": 1, "temperature": 0.0, "logprobs": _LIKELIEST, "logprob_token_ids": list(choice_ids)}
        names = {f"token_id:{id}": id for id in choice_ids}

        def read(_: int, choice: Choice) -> list[float]:
            likeliest = _likeliest(choice)
            by_id = any(name.startswith("token_id:") for name in likeliest)
            called = names if by_id else self._texts(choice_ids)
            found = {called[name]: value for name, value in likeliest.items() if name in called}
            missing = len(choice_ids) - len(found)
            hidden = missing * math.exp(min(likeliest.values(), default=0.0))
            if hidden > _NEGLIGIBLE * math.fsum(map(math.exp, found.values())):
                raise ServerError(
                    f"the server gives the log-probability of {len(found)} of the {len(choice_ids)} tokens asked for, "
                    "and the others may be as likely: take one that knows logprob_token_ids, as vLLM does, or, where "
                    "these are scores, judge.mode=sampled"
                )
            return [found.get(id, -math.inf) for id in choice_ids]

        return self._send(prompts, [body] * len(prompts), adapter, read, lambda i, _: advance(1, len(prompts[i])))

    def logprobs(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        """The server echoes prompt and completion with the log-probability of each token, and adds one token.

        One text at a time: where adapters may be loaded, vLLM on a CPU dies of two (0.32: their number and that of
        their tokens are mixed up). Nothing in the loop asks for many.
        """
        rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        body = {"max_tokens": 1, "temperature": 0.0, "logprobs": 1, "echo": True}

        def read(index: int, choice: Choice) -> list[float]:
            echoed = _numbers(choice, "token_logprobs", (int, float, type(None)))
            values = [float(v) for v in echoed[len(prompts[index]) : len(rows[index])] if v is not None]
            if len(values) != len(completions[index]):
                raise ServerError("the server does not echo texts with log-probabilities: take one that does, as vLLM")
            return values

        def done(index: int, _: list[float]) -> None:
            advance(1, len(rows[index]))

        return self._send(rows, [body] * len(rows), adapter, read, done, concurrency=1)

    def close(self) -> None:
        """The server is not this run's to end."""

    def _send(
        self,
        prompts: Sequence[list[int]],
        bodies: Sequence[Body],
        adapter: Adapter | None,
        read: Callable[[int, Choice], Result],
        done: Callable[[int, Result], None],
        concurrency: int | None = None,
    ) -> list[Result]:
        """What `read` makes of the answer to each prompt."""
        if not prompts:
            return []
        model = self._served(adapter)
        for prompt, body in zip(prompts, bodies, strict=True):
            self._check_length(len(prompt) + body["max_tokens"])
        common = {"model": model, "return_token_ids": True, "return_tokens_as_token_ids": True, **_OPEN}
        requests = [
            Request("/completions", common | body | {"prompt": prompt})
            for prompt, body in zip(prompts, bodies, strict=True)
        ]
        return self._client.send(requests, lambda index, reply: read(index, _choice(reply)), done, concurrency)

    def _served(self, adapter: Adapter | None) -> str:
        """What the server calls the base model, or the adapter on it, which is loaded where it isn't yet."""
        if self._longest is None:
            self.greet()
        if adapter is None:
            return self._model or ""
        if self._outside:
            raise ModelError(f"adapter {adapter.name} was trained on another model than the server's: use none there")
        if adapter not in self._adapters:
            self._load(adapter)
            self._adapters.add(adapter)
        return adapter.name

    def _texts(self, choice_ids: Sequence[int]) -> dict[str, int]:
        """The choices by their texts, by which some servers call tokens, but for those that other tokens share."""
        if self._spelled is None:
            ids = range(len(self._chat.tokenizer))
            self._spelled = Counter(self._chat.tokenizer.batch_decode([[id] for id in ids]))
        texts = {id: self._chat.tokenizer.decode([id]) for id in choice_ids}
        return {text: id for id, text in texts.items() if self._spelled[text] == 1}

    def check_tokenizer(self, key: str) -> None:
        """Have a few tokens written, and see that they are read as the server reads them.

        Raises `ServerError` for a server whose model has another tokenizer than `chat`, the setting `key`.
        """

        def read(_: int, choice: Choice) -> None:
            ids, said = choice.get("token_ids"), _readable(str(choice.get("text") or ""))
            if not isinstance(ids, list) or not said:
                return
            ours = _readable(self._chat.decode([int(id) for id in ids]))
            if ours != said:
                raise ServerError(
                    f"the server's model writes {said!r} where {key} reads {ours!r}: name that model's own tokenizer"
                )

        prompt = self._chat.render("Name three colours.")
        self._send([prompt], [{"max_tokens": 8, "temperature": 0.0}], None, read, lambda *_: None)

    @property
    def longest(self) -> int | None:
        """Tokens of the longest text that the server takes; None where it doesn't say."""
        return self._longest or None

    def greet(self) -> None:
        """Find out what the server calls its model, and how long a text it takes, where it says so."""
        listed = self._listed()
        self._model = self._model or next(iter(listed))
        self._longest = int(listed.get(self._model, {}).get("max_model_len") or 0)

    def _load(self, adapter: Adapter) -> None:
        """Have the server load an adapter under its name, unless an earlier run has.

        Raises `ServerError` where it has one of that name from another folder: servers keep what they computed by name.
        """
        folder = str(adapter.folder.resolve())
        card = self._listed().get(adapter.name)
        if card is None:
            remedy = (
                f"it must load adapters, and see {folder}; start vLLM with --enable-lora, --max-lora-rank of "
                "train.lora.r or more, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            )
            body = {"lora_name": adapter.name, "lora_path": folder}
            try:
                self._client.send([Request("/load_lora_adapter", body, remedy)], lambda _, reply: reply)
                return
            except ServerError:  # another process may have been faster, or the reply to an earlier attempt was lost
                card = self._listed().get(adapter.name)
                if card is None:
                    raise
        if card.get("root") not in (None, folder):
            raise ServerError(f"the server has {adapter.name} from {card['root']}, not from {folder}: start it anew")

    def _listed(self) -> dict[str, dict[str, Any]]:
        """What the server lists, models and adapters, by name."""
        return self._client.send([Request("/models")], lambda _, reply: _models(reply))[0]

    def _check_length(self, tokens: int) -> None:
        if self._longest and tokens > self._longest:
            raise ModelError(f"a sequence of {tokens} tokens is beyond the server's {self._longest}: {SHORTEN}")


def _readable(text: str) -> str:
    """`text` without half a letter at its end, and with single spaces."""
    return " ".join(text.rstrip(_UNREADABLE).split())


def _models(reply: Any) -> dict[str, dict[str, Any]]:
    try:
        listed = {str(card["id"]): dict(card) for card in reply["data"]}
    except (TypeError, KeyError, ValueError):
        raise MalformedError(f"a list of models that is none ({str(reply)[:80]!r})") from None
    if not listed:
        raise MalformedError("an empty list of models")
    return listed


def _choice(reply: Any) -> Choice:
    """The one answer of a reply."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise MalformedError(f"a reply without the answer ({str(reply)[:80]!r})")
    return choices[0]


def _completion(end_ids: Sequence[int], choice: Choice) -> Completion:
    token_ids = choice.get("token_ids")
    if token_ids is None:
        raise ServerError("the server returns no token ids: take one that knows return_token_ids, as vLLM does")
    logprobs = _numbers(choice, "token_logprobs", (int, float))
    if not isinstance(token_ids, list) or not token_ids or len(token_ids) != len(logprobs):
        raise MalformedError("an answer whose tokens and log-probabilities differ in number")
    finished = token_ids[-1] in {*end_ids, choice.get("stop_reason")}  # a server may know more ends of its model
    if choice.get("finish_reason") == "stop" and not finished:
        raise ServerError("the server leaves the end token out of an answer's token ids: take one that keeps it")
    if choice.get("finish_reason") not in ("stop", "length"):
        raise MalformedError(f"an answer broken off ({choice.get('finish_reason')})")
    return Completion([int(id) for id in token_ids], [float(value) for value in logprobs], finished)


def _likeliest(choice: Choice) -> dict[str, float]:
    """The log-probabilities of the likeliest tokens at an answer's first place, by name; none where none came."""
    logprobs = choice.get("logprobs")
    tops = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
    first = tops[0] if isinstance(tops, list) and tops else None
    if not isinstance(first, dict):
        return {}
    return {str(name): float(value) for name, value in first.items() if isinstance(value, (int, float))}


def _numbers(choice: Choice, name: str, kind: Any) -> list[Any]:
    """What the log-probabilities of an answer hold under `name`, one entry a token."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict) or logprobs.get(name) is None:
        raise ServerError("the server gives no log-probabilities of tokens: take one that does, as vLLM")
    values = logprobs[name]
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise MalformedError(f"an answer without {name}")
    return values
