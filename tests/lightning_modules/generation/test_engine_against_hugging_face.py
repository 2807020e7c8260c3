"""The engine generates the same sequences as Hugging Face's ``generate`` with the same network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MarianConfig, MarianMTModel
from transformers.modeling_outputs import BaseModelOutput

from lightning_modules.generation.beam_search import BeamSearch, LengthPenalty
from lightning_modules.generation.decoder import DecodingState, StepOutput
from lightning_modules.generation.engine import generate


class Uncached:
    """A Marian model that reads all tokens again at each step."""

    def __init__(self, model: MarianMTModel) -> None:
        self.model = model

    def start(self, memory: tuple[Tensor, Tensor]) -> DecodingState:
        encoded = self.model.get_encoder()(input_ids=memory[0], attention_mask=memory[1]).last_hidden_state
        return DecodingState((encoded, memory[1]), torch.zeros(len(encoded), 0, dtype=torch.int64))

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        encoded, mask = (part.repeat_interleave(tokens.size(1), dim=0) for part in state.memory)
        sofar = torch.cat([state.hypotheses, tokens.reshape(-1, 1)], dim=1)
        logits = self.model(
            encoder_outputs=BaseModelOutput(encoded), attention_mask=mask, decoder_input_ids=sofar, use_cache=False
        ).logits
        return StepOutput(logits[:, -1].unflatten(0, tokens.shape), DecodingState(state.memory, sofar), None)


HF_PAD, HF_EOS = 29, 0


def tiny_marian(seed: int, end: float) -> MarianMTModel:
    """A random model whose hypotheses have different lengths and do not repeat one token without end."""
    torch.manual_seed(seed)
    config = MarianConfig(
        vocab_size=30,
        d_model=16,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=32,
        init_std=0.8,
        pad_token_id=HF_PAD,
        eos_token_id=HF_EOS,
        decoder_start_token_id=HF_PAD,
        forced_eos_token_id=None,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
    )
    model = MarianMTModel(config).double()
    model.train(mode=False)
    model.lm_head = torch.nn.Linear(16, 30, bias=False).double()
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    model.final_logits_bias[0, HF_EOS] += end
    return model


@pytest.mark.parametrize(
    ("size", "alpha", "arguments"),
    [
        (1, 1.0, {}),
        (4, 1.0, {}),
        (5, 0.6, {"min_new_tokens": 3}),
        (3, 0.0, {"no_repeat_ngram_size": 2}),
        (2, -1.0, {}),
        (6, 2.0, {}),
    ],
)
def test_the_same_sequences_and_scores_as_hugging_face(size: int, alpha: float, arguments: dict[str, int]) -> None:
    strategy = BeamSearch(size, LengthPenalty(alpha=alpha), no_repeat_ngram=arguments.get("no_repeat_ngram_size", 0))
    lengths = set()
    for seed, end in enumerate([2.0, 2.0, 3.0, 3.0]):
        model: Any = tiny_marian(seed, end)  # its annotations do not allow calls of generate
        source = torch.randint(1, 29, (5, 6))
        mask = (torch.arange(6) < torch.tensor([[6], [4], [5], [2], [6]])).long()
        with torch.no_grad():
            output = model.generate(
                input_ids=source,
                attention_mask=mask,
                num_beams=size,
                num_return_sequences=size,
                max_new_tokens=10,
                length_penalty=alpha,
                early_stopping=False,
                do_sample=False,
                bad_words_ids=[[HF_PAD]],
                return_dict_in_generate=True,
                output_scores=True,
                **arguments,
            )
        found = generate(
            Uncached(model),
            (source, mask),
            strategy,
            bos_id=HF_PAD,
            eos_id=HF_EOS,
            pad_id=HF_PAD,
            max_length=10,
            min_length=arguments.get("min_new_tokens", 0),
            n_best=size,
        )
        ours = [hypothesis for hypotheses in found for hypothesis in hypotheses]
        theirs = [[token for token in row[1:] if token != HF_PAD] for row in output.sequences.tolist()]
        assert [hypothesis.tokens for hypothesis in ours] == theirs
        if size > 1:  # greedy search there returns no score
            expected = output.sequences_scores.tolist()
            assert [hypothesis.score for hypothesis in ours] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        lengths |= {len(tokens) for tokens in theirs}
    # With equal lengths the penalty would change nothing; greedy search has none.
    assert len(lengths) > (2 if size > 1 else 1)
