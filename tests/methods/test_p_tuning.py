"""P-tuning against PEFT's prompt encoder on its own weights."""

from typing import Any

import peft
import pytest
import torch

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.core.rng import generator
from lmtailor.edits.attach import attach
from lmtailor.edits.edits import Edits
from lmtailor.methods.p_tuning import PerceptronPrompt, PTuning, RecurrentPrompt
from lmtailor.methods.soft_prompt import SoftPrompt
from tests.edits.worn import Worn, apart, base_of, logits, perturbed
from tests.methods.theirs import wrapped
from tests.tiny import kind_of, tiny_base, tiny_inputs


def count(method: PTuning, base: Base) -> int:
    """N · H and the network, by the docstring."""
    table = base.module(base.stacks[0].embedding).weight
    assert isinstance(table, torch.Tensor)
    length, width = method.length, table.shape[1]
    if method.network == "mlp":
        k = method.hidden or width
        return length * width + width * k + k + k * k + k + k * width + width
    k = method.hidden or width // 2
    g = 4 * k
    first = 2 * (g * width + g * k + 2 * g)
    later = (method.layers - 1) * 2 * (g * 2 * k + g * k + 2 * g)
    return length * width + first + later + 2 * k * 2 * k + 2 * k + 2 * k * width + width


def test_the_count_by_hand() -> None:
    """GPT-2's 48 features: an LSTM of 24 in each direction, as large as torch's own."""
    lstm = torch.nn.LSTM(48, 24, num_layers=2, bidirectional=True)
    own = sum(parameter.numel() for parameter in lstm.parameters())
    assert PTuning(length=5).edits(base_of("gpt2").sites, None).num_parameters == 5 * 48 + own + 2 * (48 * 48 + 48)
    mlp = PTuning(length=5, network="mlp", hidden=7).edits(base_of("gpt2").sites, None)
    assert mlp.num_parameters == 5 * 48 + (48 * 7 + 7) + (7 * 7 + 7) + (7 * 48 + 48)
    assert PTuning(length=5, at="both").edits(base_of("t5").sites, None).num_parameters == 2 * lstm_and_prompt(own)


def lstm_and_prompt(own: int) -> int:
    return 5 * 48 + own + 2 * (48 * 48 + 48)


def put(encoder: Any, edits: Edits) -> None:
    """Our weights in PEFT's prompt encoder."""
    (edit,) = edits
    with torch.no_grad():
        if isinstance(edit, PerceptronPrompt):
            encoder.embedding.weight.copy_(edit.embedding_NH)
            parts = [edit.first_KH, edit.first_bias_K, edit.second_KK, edit.second_bias_K, edit.output_HK, edit.output_bias_H]
        else:
            assert isinstance(edit, RecurrentPrompt)
            encoder.embedding.weight.copy_(edit.embedding_NH)
            parts = [edit.inner_II, edit.inner_bias_I, edit.output_HI, edit.output_bias_H]
            layers = [(edit.first_input_DGH, edit.first_state_DGK, edit.first_bias_DBG)]
            if edit.input_LDGI is not None:
                assert edit.state_LDGK is not None
                assert edit.bias_LDBG is not None
                layers += list(zip(edit.input_LDGI, edit.state_LDGK, edit.bias_LDBG, strict=True))
            for number, (inputs, states, biases) in enumerate(layers):
                for way, suffix in enumerate(("", "_reverse")):
                    own = {
                        "weight_ih": inputs[way],
                        "weight_hh": states[way],
                        "bias_ih": biases[way, 0],
                        "bias_hh": biases[way, 1],
                    }
                    for name, value in own.items():
                        getattr(encoder.lstm_head, f"{name}_l{number}{suffix}").copy_(value)
        targets = list(encoder.mlp_head.parameters())
        assert len(targets) == len(parts)
        for target, part in zip(targets, parts, strict=True):
            target.copy_(part)


@pytest.mark.parametrize("key", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"hidden": 7, "layers": 1}, {"hidden": 5, "layers": 3}, {"network": "mlp", "hidden": 6}],
    ids=str,
)
def test_peft_computes_the_same(key: str, settings: dict[str, Any]) -> None:
    """The prompt, and the model behind it."""
    base, method = base_of(key), PTuning(length=4, **settings)
    edits = perturbed(method.edits(base.sites, generator(0)), scale=0.5)
    task = "SEQ_2_SEQ_LM" if kind_of(key) == "encoder-decoder" else "CAUSAL_LM"
    config = peft.PromptEncoderConfig(
        task_type=task,
        num_virtual_tokens=4,
        encoder_reparameterization_type=method.network.upper(),
        encoder_hidden_size=method.hidden or 24,
        encoder_num_layers=method.layers,
        num_transformer_submodules=1,
    )
    model = wrapped(tiny_base(key).model, config)
    put(model.prompt_encoder.default, edits)
    inputs = tiny_inputs(base)
    real = slice(None) if "decoder_input_ids" in inputs else inputs["attention_mask"].bool()
    with torch.no_grad():
        theirs = model(**inputs).logits
        with attach(base, Worn(edits)):
            found = logits(base, inputs)
        wanted = theirs[:, theirs.shape[1] - found.shape[1] :][real]
        assert apart(found[real], wanted) < 1e-5
        (prompt,) = method.finished(edits)[1].state().values()
        assert apart(prompt, model.get_prompt(1)[0]) < 1e-5


def test_a_soft_prompt_is_kept() -> None:
    method = PTuning(length=3, at="both")
    kept, finished = method.finished(perturbed(method.edits(base_of("bart").sites, generator(0))))
    assert kept == SoftPrompt(length=3, at="both")
    assert [edit.site for edit in finished] == ["encoder.embed", "decoder.embed"]
    assert finished.num_parameters == 2 * 3 * 48


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length is 0; a prompt needs at least 1"),
        ({"hidden": 0}, "hidden is 0"),
        ({"layers": 0}, "layers is 0; an LSTM needs at least 1"),
        ({"layers": 3, "network": "mlp"}, "has no LSTM"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PTuning(**settings)
