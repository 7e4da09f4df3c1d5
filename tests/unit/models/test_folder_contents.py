"""A model's folder may come from anybody: nothing in it runs, leads outside, hangs, or takes memory without end."""

from __future__ import annotations

import builtins
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from assent.engine.checkpoint import damage
from assent.errors import ModelError
from assent.models.folder_contents import MAX_JSON_BYTES, stored_tensors
from assent.models.folders import content_hash
from assent.models.loading import check_adapter, load_config, load_policy, load_scorer, load_tokenizer
from tests.support.models import tiny_llama, write_folder
from tests.support.tokenizers import byte_bpe

EVIL = "import pathlib\npathlib.Path({mark!r}).write_text('ran')\nclass A: pass\nclass B: pass\n"


@pytest.fixture
def folder(tmp_path):
    tokenizer = byte_bpe()
    return write_folder(tmp_path / "policy", tiny_llama(tokenizer), tokenizer)


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A file that the folder's code would write. Whoever is asked answers yes."""
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    return tmp_path / "ran"


def edit(folder: Path, name: str, **values: object) -> None:
    path = folder / name
    stored = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({k: v for k, v in {**stored, **values}.items() if v is not None}))


CODE = {"AutoConfig": "evil.A", "AutoModelForCausalLM": "evil.B", "AutoModelForSequenceClassification": "evil.B"}


@pytest.mark.parametrize("model_type", ["vit", "clip", "t5gemma9000", None, ["llama"]])
@pytest.mark.parametrize("load", [load_policy, load_scorer, load_tokenizer, load_config])
def test_a_folder_that_brings_its_own_code_is_refused_and_nobody_is_asked(folder, mark, load, model_type):
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    edit(folder, "config.json", model_type=model_type, auto_map=CODE)
    with pytest.raises(ModelError, match=r"this kind.*code from its own folder"):
        load(folder)
    assert not mark.exists()


def test_config_json_is_judged_before_any_other_file_is_opened(folder):
    edit(folder, "config.json", model_type="vit")
    (folder / "tokenizer.json").write_text("no JSON")
    (folder / "model.safetensors").write_bytes(b"no weights")
    for load in (load_policy, load_tokenizer):
        with pytest.raises(ModelError, match="no language model of this kind"):
            load(folder)


def test_a_tokenizer_that_needs_code_is_refused_and_one_that_does_not_is_read_without_it(folder, mark):
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    edit(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.A", "evil.B"]}, tokenizer_class="A")
    assert len(load_tokenizer(folder)) > 0
    (folder / "vocab.json").write_text("{}")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="the tokenizer needs code"):
        load_tokenizer(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_cannot_ask_for_kernels_of_a_repository(folder, name):
    edit(folder, "config.json", **{name: "somebody/kernel"})
    with pytest.raises(ModelError, match="asks for code from a repository"):
        load_config(folder)


def index(folder: Path, file: str) -> None:
    """An index that names `file` for all weights, in place of model.safetensors."""
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    text = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, file)})
    (folder / "model.safetensors.index.json").write_text(text)


def test_an_index_that_names_a_torch_file_is_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "weights.bin")
    index(folder, "weights.bin")
    with pytest.raises(ModelError, match="not safetensors"):
        load_policy(folder)


@pytest.mark.parametrize("kind", ["relative", "absolute", "link"])
def test_an_index_or_link_that_leads_out_of_the_folder_is_refused(folder, tmp_path, kind):
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes((folder / "model.safetensors").read_bytes())
    if kind == "link":
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").symlink_to(outside)
    else:
        index(folder, "../outside.safetensors" if kind == "relative" else str(outside))
    with pytest.raises(ModelError, match=r"outside"):
        load_policy(folder)


def test_an_index_of_files_inside_is_read_and_so_is_the_hubs_cache(folder, tmp_path):
    expected = load_policy(folder).state_dict()
    (folder / "part").mkdir()
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "part" / "a.safetensors", metadata={"format": "pt"})
    index(folder, "part/a.safetensors")
    assert all(torch.equal(expected[name], tensor) for name, tensor in load_policy(folder).state_dict().items())
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "0123"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(f for f in folder.rglob("*") if f.is_file() and f.suffix != ".index")):
        blob = repository / "blobs" / str(number)
        blob.write_bytes(file.read_bytes())
        place = snapshot / file.relative_to(folder)
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(os.path.relpath(blob, place.parent))
    assert all(torch.equal(expected[name], tensor) for name, tensor in load_policy(snapshot).state_dict().items())


def test_weights_outside_are_refused_however_config_json_names_them(folder):
    edit(folder, "config.json", transformers_weights="../outside.safetensors")
    with pytest.raises(ModelError, match="names weights that are not"):
        load_policy(folder)


@pytest.mark.parametrize("damage_done", ["cut", "longer", "header", "lying", "empty", "deep"])
def test_truncated_and_lying_safetensors_are_named(folder, damage_done):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    if damage_done == "lying":
        first = next(name for name in header if name != "__metadata__")
        header[first]["shape"] = [10**9, 10**9]
        text = json.dumps(header).encode()
        whole = struct.pack("<Q", len(text)) + text + whole[8 + length :]
    deep = b"[" * 200_000
    path.write_bytes(
        {"cut": whole[:-5], "longer": whole + b"0", "header": struct.pack("<Q", 2**63) + whole[8:], "lying": whole,
         "empty": b"", "deep": struct.pack("<Q", len(deep)) + deep}[damage_done]
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"cut off or damaged\n.*model\.safetensors: "):
        load_policy(folder)


def test_the_header_gives_the_shapes_of_a_sound_file(folder):
    shapes = stored_tensors(folder / "model.safetensors")
    assert shapes == {name: tuple(t.shape) for name, t in load_file(folder / "model.safetensors").items()}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_as_such(folder, value):
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name][0, 0] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"not finite.*\n.*{name}.*: 1 of "):
        load_policy(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_pipes_devices_and_folders_in_a_files_place_are_refused(folder, name, kind):
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).mkdir()
    with pytest.raises(ModelError, match=r"in a file's place|outside its folder"):
        load_policy(folder)


def test_a_json_file_that_is_far_too_large_or_too_deep_is_refused(folder):
    with (folder / "generation_config.json").open("wb") as stream:
        stream.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(ModelError, match="larger than such a file can be"):
        load_policy(folder)
    (folder / "generation_config.json").write_text("{}")
    (folder / "config.json").write_text('{"a":' + "[" * 100_000)
    with pytest.raises(ModelError, match="nested too deeply"):
        load_policy(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 100_000},
        {"num_hidden_layers": 5_000},
        {"num_labels": 10**9},
        {"hidden_size": 10**6},
        {"vocab_size": 10**11},
        {"intermediate_size": 10**9},
        {"head_dim": 10**9},
    ],
    ids=str,
)
def test_sizes_beyond_the_weights_are_refused_before_a_model_is_built(folder, monkeypatch, values):
    built = []
    monkeypatch.setattr("transformers.PreTrainedModel.__init__", lambda *_, **__: built.append(1))
    edit(folder, "config.json", **values)
    with pytest.raises(ModelError, match=r"size beyond reason|far larger model"):
        load_policy(folder)
    assert not built


@pytest.mark.parametrize(
    "values", [{"hidden_size": "wide"}, {"num_attention_heads": 0}, {"rope_parameters": 3}, {"architectures": [5]},
               {"architectures": "LlamaForCausalLM"}, {"rms_norm_eps": float("nan")}, {"assent_score_bias": "x"},
               {"assent_score_bias": [10**400]}, {"assent_ensemble_size": 0}], ids=lambda v: str(v)[:40]
)  # fmt: skip
def test_values_that_the_library_does_not_expect_are_a_models_fault(folder, values):
    edit(folder, "config.json", **values)
    with pytest.raises(ModelError):
        load_policy(folder)


def test_an_adapter_is_held_to_the_same(folder, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    edit(adapter, "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(adapter))
    with pytest.raises(ModelError, match="its own base"):
        check_adapter(adapter)
    edit(adapter, "adapter_config.json", base_model_name_or_path=str(folder))
    torch.save({}, adapter / "adapter_model.bin")
    save_file({}, adapter / "other.safetensors")
    for values, words in (
        ({}, "no weights in safetensors"),
        ({"megatron_config": {"a": 1}}, "other code or files"),
        ({"megatron_config": None, "peft_type": "MULTITASK_PROMPT_TUNING"}, "not supported"),
    ):
        edit(adapter, "adapter_config.json", **values)
        with pytest.raises(ModelError, match=words):
            load_policy(adapter)


def test_a_checkpoint_whose_file_is_a_link_out_of_it_is_damaged(tmp_path):
    from assent.engine.checkpoint import _commit

    temporary, final = tmp_path / ".step-1.tmp", tmp_path / "step-1"
    temporary.mkdir()
    (temporary / "state.json").write_text("{}")
    _commit(temporary, final, 1, None)
    assert damage(final) is None
    (final / "state.json").rename(tmp_path / "elsewhere.json")
    (final / "state.json").symlink_to(tmp_path / "elsewhere.json")
    assert damage(final) == "state.json lies outside the checkpoint"
    (final / "manifest.json").unlink()
    os.mkfifo(final / "manifest.json")
    assert damage(final) == "manifest.json is not a file"


def test_a_key_that_stands_twice_is_refused(folder):
    text = (folder / "config.json").read_text().rstrip()
    (folder / "config.json").write_text(text[:-1] + ', "hidden_size": 64}')
    with pytest.raises(ModelError, match=r"config\.json of the model folder: the key 'hidden_size' stands twice"):
        load_policy(folder)


@pytest.mark.parametrize(
    "ids", [-1, "abc", [[1]], {"a": 1}, 10**30, True, list(range(10**5))], ids=lambda v: str(v)[:20]
)
@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_ids_that_end_a_text_are_ids(folder, name, ids):
    edit(folder, "generation_config.json", eos_token_id=None)
    edit(folder, name, eos_token_id=ids)
    with pytest.raises(ModelError, match=r"not ids of tokens|cannot be read"):
        load_tokenizer(folder)


@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_a_tokenizer_that_multiplies_texts_is_refused_before_it_reads_one(folder, part):
    made = json.loads((folder / "tokenizer.json").read_text())
    steps = [{"type": "Replace", "pattern": {"Regex": "."}, "content": "aaaaaaaaaa"}] * 9
    made[part] = {"type": "Sequence", f"{part}s": steps}
    (folder / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(ModelError, match=rf"{part} makes texts far longer"):
        load_tokenizer(folder)
    made[part][f"{part}s"] = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    (folder / "tokenizer.json").write_text(json.dumps(made))
    load_tokenizer(folder)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_folder_is_hashed_only_if_its_weights_are_files(folder, kind):
    (folder / "model.safetensors").unlink()
    if kind == "pipe":
        os.mkfifo(folder / "model.safetensors")
    else:
        (folder / "model.safetensors").symlink_to("/dev/zero")
    with pytest.raises(ModelError, match="a pipe, socket or device"):
        content_hash(folder)


@pytest.mark.parametrize("kind", [torch.int32, torch.bool])
def test_whole_numbers_are_no_weights_of_a_model_that_is_not_quantised(folder, kind):
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file(weights | {name: weights[name].to(kind)}, path, {"format": "pt"})
    with pytest.raises(ModelError, match="stored as whole numbers"):
        load_policy(folder)


@pytest.mark.parametrize("members", [["."], [".."], ["/tmp"], [5], "ab", {"a": 1}, ["a/b"], ["a\0"]], ids=str)
def test_members_of_an_ensemble_are_folders_inside_it(folder, members):
    edit(folder, "assent_members.json", members=members)
    with pytest.raises(ModelError, match="does not name the members"):
        load_config(folder)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"config": {"_attn_implementation": "evil/kernels"}}, "more than its own fields"),
        ({"config": [1]}, "more than its own fields"),
        ({"config": {"assent_score_bias": "x"}}, "bias of the scores is no number"),
        ({"base_relative": 5}, "base_relative of the adapter's record is not text"),
        ({"base_content": 5}, "base_content of the adapter's record is not text"),
    ],
)
def test_an_adapters_record_sets_its_own_fields_alone(folder, tmp_path, record, words):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    edit(adapter, "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(folder))
    edit(adapter, "assent_adapter.json", **record)
    with pytest.raises(ModelError, match=words):
        load_config(adapter)


@pytest.mark.parametrize("base", ["self", 5, ["a"], "a\0b"], ids=str)
def test_the_hash_of_an_adapter_does_not_follow_a_base_that_is_none(tmp_path, base):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    edit(
        adapter,
        "adapter_config.json",
        peft_type="LORA",
        base_model_name_or_path=str(adapter) if base == "self" else base,
    )
    with pytest.raises(ModelError, match=r"its own base|names no base|is no path"):
        content_hash(adapter)


def test_an_index_that_names_a_file_with_an_endless_name_is_refused(folder):
    edit(folder, "model.safetensors.index.json", weight_map={"a": "a" * 5000 + ".safetensors"})
    with pytest.raises(ModelError, match="names is missing"):
        load_policy(folder)


def test_there_is_one_bias_for_each_score(folder, tmp_path):
    tokenizer = byte_bpe()
    scorer = write_folder(tmp_path / "scorer", tiny_llama(tokenizer, kind="scorer"), tokenizer)
    edit(scorer, "config.json", assent_score_bias=[0.5])
    load_scorer(scorer)
    edit(scorer, "config.json", assent_score_bias=[1, 2, 3])
    with pytest.raises(ModelError, match="not one bias for each score"):
        load_scorer(scorer)
