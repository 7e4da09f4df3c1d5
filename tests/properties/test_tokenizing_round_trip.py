"""Law 8 over arbitrary contents: nothing of a text is lost, added, or read as something it is not."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from assent.models.templates import resolve_template
from assent.models.tokenizing import tokenize_groups
from assent.types import PromptGroup
from tests.support.rows import pair, turns
from tests.support.tokenizers import INST, byte_bpe, metaspace

WORDS = st.lists(
    st.sampled_from(["hello", " ", "\n", "  ", "<|im_end|>", "<|im_", "end|>", "é", "😀", "user", "</s>", "<"])
)
CONTENTS = WORDS.map("".join)
PLAIN = CONTENTS.filter(lambda text: "|>" not in text and "</s>" not in text)
FAST = settings(max_examples=60, deadline=None)


@cache
def chatml(*, tail: bool):
    tokenizer = byte_bpe()
    return tokenizer, resolve_template(tokenizer, keep_template_tail=tail)


def tokenize(groups, tokenizer, template):
    return tokenize_groups(groups, tokenizer=tokenizer, template=template, max_length=10_000)


@FAST
@given(prompt=PLAIN, chosen=PLAIN, rejected=PLAIN)
def test_with_the_tail_kept_ids_are_the_joint_tokenization(prompt, chosen, rejected):
    """TRL's rule: the ids of the rendered whole, cut where the ids of the rendered prompt end."""
    tokenizer, template = chatml(tail=True)
    group = pair(prompt, chosen, rejected + "!")
    out = tokenize([group], tokenizer, template)
    if chosen == rejected + "!":
        assert out.groups == []
        return
    for completion, turn in zip(out.groups[0].completions, group.completions, strict=True):
        conversation = [m.as_dict() for m in (*group.prompt, *turn)]
        joint = tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False)
        # GPT-2's pattern reads ahead over blanks, so a completion that begins with some may be cut otherwise
        if joint[: len(out.groups[0].prompt_ids)] == list(out.groups[0].prompt_ids):
            assert [*out.groups[0].prompt_ids, *completion.ids] == joint
        else:
            assert out.report.boundary_differs


@FAST
@given(prompt=CONTENTS, completion=CONTENTS)
def test_ids_spell_the_rendered_text_and_only_the_template_writes_control_tokens(prompt, completion):
    tokenizer, template = chatml(tail=False)
    row = PromptGroup(prompt=turns(("user", prompt)), completions=(turns(("assistant", completion)),))
    [group] = tokenize([row], tokenizer, template).groups
    ids = [*group.prompt_ids, *group.completions[0].ids]
    text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{completion}<|im_end|>"
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2
    assert ids.count(tokenizer.eos_token_id) == 2
    assert group.completions[0].ids[-1] == tokenizer.eos_token_id


@FAST
@given(prompt=PLAIN, first=PLAIN, second=PLAIN)
def test_counted_tokens_spell_the_assistant_turns(prompt, first, second):
    tokenizer, template = chatml(tail=False)
    rest = turns(("assistant", first), ("user", "and"), ("assistant", second))
    [group] = tokenize([PromptGroup(prompt=turns(("user", prompt)), completions=(rest,))], tokenizer, template).groups
    [completion] = group.completions
    counted = [i for i, m in zip(completion.ids, completion.mask, strict=True) if m]
    assert tokenizer.decode(counted, clean_up_tokenization_spaces=False) == f"{first}<|im_end|>{second}<|im_end|>"


@cache
def sentencepiece():
    tokenizer = metaspace(template=INST)
    return tokenizer, resolve_template(tokenizer)


@FAST
@given(words=st.lists(st.sampled_from(["hello", "you", "are", "how"]), min_size=1))
def test_sentencepiece_ids_of_an_ordinary_row_are_the_joint_tokenization(words):
    tokenizer, template = sentencepiece()
    text = " ".join(words)
    row = pair(text, text, text + " ok")
    out = tokenize([row], tokenizer, template)
    assert out.report.boundary_checked == 1
    assert out.report.boundary_differs == []
    joint = tokenizer.apply_chat_template(
        [m.as_dict() for m in (*row.prompt, *row.completions[0])], tokenize=True, return_dict=False
    )
    assert [*out.groups[0].prompt_ids, *out.groups[0].completions[0].ids] == joint
