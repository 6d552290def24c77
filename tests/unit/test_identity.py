"""An artifact's identity: the hash of all that changes it, and of nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.config import (
    EngineConfig,
    EvaluationConfig,
    JudgeConfig,
    LoraConfig,
    MemoryConfig,
    ModelConfig,
    PairsConfig,
    PromptsConfig,
    RunConfig,
    SamplingConfig,
    SpeedConfig,
    TrackingConfig,
)
from selfreward.errors import IdentityError
from selfreward.model.model_files import ModelIdentity
from selfreward.sources.pool import SourceIdentity
from selfreward.stages.agreement import AgreementIdentity
from selfreward.stages.base_policy import BasePolicyIdentity
from selfreward.stages.candidates import CandidatesIdentity, EngineIdentity
from selfreward.stages.chunks import ChunksIdentity
from selfreward.stages.document_prompts import DocumentPromptsIdentity
from selfreward.stages.embeddings import EmbeddingsIdentity
from selfreward.stages.evaluate import EvaluationIdentity
from selfreward.stages.gate import GateIdentity
from selfreward.stages.judgements import JudgementsIdentity
from selfreward.stages.leaks import LeaksIdentity
from selfreward.stages.new_prompts import NewPromptsIdentity
from selfreward.stages.pairs import PairsIdentity
from selfreward.stages.parity import ParityIdentity
from selfreward.stages.perplexity import PerplexityIdentity
from selfreward.stages.pretrain import PretrainIdentity
from selfreward.stages.prompts import PromptsIdentity
from selfreward.stages.proposals import ProposalsIdentity
from selfreward.stages.references import ReferencesIdentity
from selfreward.stages.rephrasings import RephrasingsIdentity
from selfreward.stages.seeds import SeedsIdentity
from selfreward.stages.train import PolicyIdentity
from selfreward.stages.tune import TuneIdentity
from selfreward.store import Execution, Identity, derive_seed
from selfreward.store.identity import ID_LENGTH, artifact_id, canonical_json

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
plain_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


# Canonical JSON


@given(plain_values)
def test_the_order_of_keys_changes_no_byte(value: Any) -> None:
    assert canonical_json(_reversed_keys(value)) == canonical_json(value)


@given(plain_values)
def test_canonical_json_reads_back_as_the_value_so_no_two_values_share_it(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.lists(scalars))
def test_a_tuple_is_the_list_of_its_items(items: list[Any]) -> None:
    assert canonical_json(tuple(items)) == canonical_json(items)


def test_identity_settings_are_the_mapping_of_their_fields() -> None:
    assert canonical_json(LoraConfig()) == '{"alpha":32,"dropout":0.0,"r":16,"target_modules":"all-linear"}'


@dataclass
class _NeitherIdentityNorExecution:
    value: int = 1


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        frozenset(),
        Path("somewhere"),
        object(),
        b"bytes",
        1j,
        range(3),
        {1: "a number as a key"},
        {"text": 1, None: 2},
        Identity(),
        _NeitherIdentityNorExecution(),
        MemoryConfig(),
        RunConfig(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_a_canonical_form_is_refused_and_the_error_says_where_it_stands(value: object) -> None:
    config = {"outer": [0, {"inner": value}]}
    with pytest.raises(IdentityError, match=r"identity\.outer\[1\]\.inner is a \w+, which has no canonical form"):
        canonical_json(config)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused_and_the_error_says_where_it_stands(value: float) -> None:
    with pytest.raises(IdentityError, match=r"identity\.config\.temperature=-?(nan|inf)"):
        artifact_id("candidates", 1, SamplingConfig(temperature=value), {}, None)


@pytest.mark.parametrize(
    "settings",
    [ModelConfig(), PromptsConfig(), EngineConfig(), MemoryConfig(), SpeedConfig(), TrackingConfig(), RunConfig()],
    ids=lambda settings: type(settings).__name__,
)
def test_execution_settings_can_never_reach_the_hash(settings: Execution) -> None:
    with pytest.raises(IdentityError, match=type(settings).__name__):
        artifact_id("candidates", 1, settings, {}, None)


# Artifact ids

ENGINE = EngineIdentity("server", merge_adapter=False, tokenizer="theirs", model="one")
SOURCE = SourceIdentity("file", "abc", "prompt", "category", "split", None, 4, {})
LEAKS = LeaksIdentity(True, 13, 0.8)
MODEL = ModelIdentity("abc", "float32", "none")
IDENTITIES: list[Any] = [
    SamplingConfig(),
    JudgeConfig(),
    PairsConfig(),
    LoraConfig(),
    EvaluationConfig(),
    MODEL,
    SOURCE,
    ENGINE,
    BasePolicyIdentity(MODEL),
    PromptsIdentity(SOURCE, 1, 8),
    CandidatesIdentity(4, 0.7, 0.9, 96, 512, 16, ENGINE),
    JudgementsIdentity(JudgeConfig().in_use, ("words",), ENGINE),
    PairsIdentity(PairsConfig()),
    ParityIdentity(ENGINE, None),
    ReferencesIdentity(),
    PolicyIdentity({"beta": 0.1}, LoraConfig()),
    EvaluationIdentity(2000, 0.95, ("words",), ENGINE),
    LEAKS,
    SeedsIdentity("people", "abc", {"format": "groups"}, {"on_error": "skip"}, LEAKS, "redact", held_out=False),
    TuneIdentity({"epochs": 1}, LoraConfig(), ("words",)),
    AgreementIdentity(JudgementsIdentity({}, ("words",), ENGINE), 2000, 0.95),
    ChunksIdentity("abc", {"chunk_tokens": 300}, "raise", LEAKS, "redact"),
    RephrasingsIdentity({"styles": "easy"}, ("words",), ENGINE),
    PretrainIdentity(0.5, None, {"epochs": 1}, LoraConfig()),
    PerplexityIdentity(ENGINE, 2000, 0.95),
    ProposalsIdentity({"kind": "evolve"}, 1, 0, ("words",), ENGINE),
    NewPromptsIdentity({"kind": "evolve"}, LEAKS, 16),
    DocumentPromptsIdentity(1, 16),
    GateIdentity({"personal": "redact"}, LEAKS, templated=False),
    EmbeddingsIdentity("abc"),
]


def test_the_list_of_identities_above_is_complete() -> None:
    ours = {kind for kind in _subclasses(Identity) if kind.__module__.startswith("selfreward.")}
    assert {type(settings) for settings in IDENTITIES} == ours


@pytest.mark.parametrize(
    "settings", [s for s in IDENTITIES if dataclasses.fields(s)], ids=lambda settings: type(settings).__name__
)
def test_each_field_of_an_identity_moves_the_artifact_id(settings: Any) -> None:
    variants = [settings, *_each_field_altered(settings)]
    ids = {artifact_id("stage", 1, variant, {}, 0) for variant in variants}
    assert len(ids) == len(variants) > 1


def test_an_artifact_id_is_twelve_hex_digits() -> None:
    identifier = artifact_id("stage", 1, PairsConfig(), {}, None)
    assert len(identifier) == ID_LENGTH == 12
    assert set(identifier) <= set("0123456789abcdef")


def test_stage_version_parents_their_roles_and_seed_all_move_the_artifact_id() -> None:
    identities = [
        ("pairs", 1, {}, None),
        ("pears", 1, {}, None),
        ("pairs", 2, {}, None),
        ("pairs", 1, {"candidates": "candidates/1"}, None),
        ("pairs", 1, {"candidates": "candidates/2"}, None),
        ("pairs", 1, {"baseline": "candidates/1"}, None),
        ("pairs", 1, {}, 0),
        ("pairs", 1, {}, 1),
    ]
    ids = {artifact_id(stage, version, PairsConfig(), parents, seed) for stage, version, parents, seed in identities}
    assert len(ids) == len(identities)


# Derived seeds

parts = st.lists(st.integers() | st.text(), max_size=4)


@given(parts, parts)
def test_derived_seeds_are_equal_where_their_parts_are_and_nowhere_else(first: list[Any], second: list[Any]) -> None:
    assert (derive_seed(*first) == derive_seed(*second)) == (first == second)


@given(parts)
def test_a_derived_seed_has_63_bits(seed_parts: list[Any]) -> None:
    assert 0 <= derive_seed(*seed_parts) < 2**63


def test_neither_the_border_nor_the_order_nor_the_type_of_parts_is_lost() -> None:
    seeds = {
        derive_seed("ab", "c"),
        derive_seed("a", "bc"),
        derive_seed("abc"),
        derive_seed("c", "ab"),
        derive_seed(1, 2),
        derive_seed("1", "2"),
    }
    assert len(seeds) == 6


def test_a_derived_seed_is_the_same_on_every_machine() -> None:
    assert derive_seed(0, "prompts", 1) == 2632740943992736383


# Helpers


def _reversed_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _reversed_keys(item) for key, item in reversed(list(value.items()))}
    return [_reversed_keys(item) for item in value] if isinstance(value, list) else value


def _subclasses(kind: type) -> Iterator[type]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _each_field_altered(settings: Any) -> Iterator[Any]:
    """`settings` with one field altered, for each field at any depth."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        for other in _each_field_altered(value) if dataclasses.is_dataclass(value) else [_other(value)]:
            yield dataclasses.replace(settings, **{field.name: other})


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, "more")
    if isinstance(value, dict):
        return value | {"more": 1}
    if value is None:
        return "some"
    return value + ("x" if isinstance(value, str) else 1)
