"""Export of trained systems for serving; the exported files are run and compared with the system itself."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim

from attention_blocks import DecoderLayer, EncoderLayer, FeedForward, MultiHeadAttention
from lightning_modules.system.evaluation import evaluation_view
from lightning_modules.system.system import System
from lightning_modules.translation.seq2seq import Seq2Seq
from lightning_modules.translation.transformer_seq2seq import TransformerSeq2Seq

# Largest difference between the outputs of the exported network and of the system.
TOLERANCE = 1e-3

CT2_POSITIONS = 1024
CT2_ACTIVATIONS = {"ReLU": "RELU", "GELU": "GELU", "SiLU": "SWISH"}


def export_safetensors(system: System, folder: Path) -> Path:
    """Weights as ``model.safetensors``, and the constructor's arguments as ``config.json``."""
    torch_files = _need("safetensors.torch", "safetensors")
    state = {name: tensor.contiguous().clone() for name, tensor in system.state_dict().items()}
    file = folder / "model.safetensors"
    torch_files.save_file(state, file)
    (folder / "config.json").write_text(json.dumps(dict(system.hparams), ensure_ascii=False), encoding="utf-8")
    for name, tensor in torch_files.load_file(file).items():
        _check(name, tensor, state[name], tolerance=0.0)
    return file


def export_program(system: System, folder: Path) -> Path:
    """The network's forward pass as ``model.pt2``, for ``torch.export.load``; batch and lengths stay free."""
    inputs, program = _traced(system)
    file = folder / "model.pt2"
    torch.export.save(program, file)
    loaded = torch.export.load(file).module()
    for some in (inputs, _other_sizes(inputs)):
        with torch.inference_mode():
            wanted = evaluation_view(system)(*some)
        with torch.no_grad():
            _check("logits", loaded(*some), wanted)
    return file


def export_onnx(system: System, folder: Path) -> Path:
    """The network's forward pass as ``model.onnx``, for ONNX Runtime and others; batch and lengths stay free."""
    runtime = _need("onnxruntime", "onnxruntime")
    _need("onnxscript", "onnxscript")
    inputs, program = _traced(system)
    file = folder / "model.onnx"
    exported = torch.onnx.export(program, (), dynamo=True, verbose=False)
    if exported is None:
        raise ValueError("torch.onnx returned no program; install a newer torch")
    exported.save(str(file))
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    for some in (inputs, _other_sizes(inputs)):
        with torch.inference_mode():
            wanted = evaluation_view(system)(*some)
        feed = {name: tensor.numpy() for name, tensor in zip(names, some, strict=True)}
        _check("logits", torch.from_numpy(session.run(None, feed)[0]), wanted)
    return file


def export_ctranslate2(system: System, folder: Path) -> Path:
    """A Transformer for translation, with its vocabularies, for CTranslate2's ``Translator``.

    Text is tokenized by the system's own tokenizers: the input is ``tokenizer.tokens(ids)`` of the source with its end
    of sentence, the output are pieces of the target. ``translate_batch(..., disable_unk=True)`` generates what the
    system generates, which never generates the unknown token.
    """
    if not isinstance(system, TransformerSeq2Seq):
        raise ValueError(f"format: ctranslate2 runs Transformers for translation, got a {type(system).__name__}")
    ctranslate2 = _need("ctranslate2", "ctranslate2")
    spec = _ct2_spec(evaluation_view(system))
    spec.validate()
    spec.optimize()
    spec.save(str(folder))
    _check_ct2(system, ctranslate2.Translator(str(folder), device="cpu"))
    return folder


FORMATS: dict[str, Callable[[System, Path], Path]] = {
    "safetensors": export_safetensors,
    "torch-export": export_program,
    "onnx": export_onnx,
    "ctranslate2": export_ctranslate2,
}


def _need(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"format: this format needs {package}: pip install 'attention-blocks[export]'") from error


def _check(name: str, found: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> None:
    difference = (found.double() - wanted.double()).abs().max().item() if wanted.numel() else 0.0
    if found.shape != wanted.shape or not difference <= tolerance:
        raise RuntimeError(f"the exported {name} differ from the system's by {difference:g}; please report this")


def _traced(system: System) -> tuple[tuple[Tensor, ...], torch.export.ExportedProgram]:
    inputs, axes = system.export_inputs()
    known: dict[str, Any] = {}
    shapes = tuple(
        {axis: known.setdefault(name, Dim(name, min=1, max=65536)) for axis, name in named.items()} for named in axes
    )
    with torch.no_grad():
        try:
            program = torch.export.export(_Forward(evaluation_view(system)), inputs, dynamic_shapes=(shapes,))
        except Exception as error:  # torch raises many kinds
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{type(system).__name__} cannot be traced by torch.export ({reason})") from error
    return inputs, program


class _Forward(nn.Module):
    """The network's forward pass alone, since torch.export would also trace what Lightning adds to a module."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.network = system.network

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)


def _other_sizes(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The same inputs with one more row, to detect a size that was fixed by mistake."""
    return tuple(torch.cat([tensor, tensor[:1]]) for tensor in inputs)


def _ct2_spec(system: TransformerSeq2Seq) -> Any:  # noqa: ANN401
    specs = importlib.import_module("ctranslate2.specs")
    network = system.network
    encoder = cast(list[EncoderLayer], list(network.encoder.layers))
    decoder = cast(list[DecoderLayer], list(network.decoder.layers.layers))
    first = encoder[0]
    heads = {block.num_heads for layer in (*encoder, *decoder) for block in _attentions(layer)}
    kinds = {type(layer.get_submodule("feed_forward.activation")).__name__ for layer in (*encoder, *decoder)}
    if len(heads) > 1 or len(kinds) > 1 or not kinds <= set(CT2_ACTIVATIONS):
        raise ValueError(
            f"format: ctranslate2 needs one number of heads and ReLU, GELU or SiLU, got {heads} and {kinds}"
        )
    spec = specs.TransformerSpec.from_config(
        (len(encoder), len(decoder)),
        heads.pop(),
        pre_norm=first.norm_first,
        activation=getattr(specs.Activation, CT2_ACTIVATIONS[kinds.pop()]),
    )
    spec.config.layer_norm_epsilon = getattr(first.attention_norm, "eps", 1e-5)
    spec.config.add_source_eos = False
    source, target = system.source_tokenizer, system.target_tokenizer
    pieces = [target.tokens([number])[0] for number in range(len(target))]
    spec.register_source_vocabulary([source.tokens([number])[0] for number in range(len(source))])
    spec.register_target_vocabulary(pieces)
    spec.config.unk_token, spec.config.eos_token = pieces[target.unk_id], pieces[target.eos_id]
    spec.config.bos_token = spec.config.decoder_start_token = pieces[target.bos_id]
    _fill_side(spec.encoder, spec.encoder.embeddings[0], network.embedding, network.position, network.norm)
    _fill_side(
        spec.decoder, spec.decoder.embeddings, network.decoder.embedding, network.decoder.position, network.decoder.norm
    )
    _fill_linear(spec.decoder.projection, network.decoder.output)
    for theirs, layer in zip(spec.encoder.layer, encoder, strict=True):
        _fill_attention(theirs.self_attention, layer, "attention", fused=3)
        _fill_feed_forward(theirs.ffn, layer)
    for theirs, ours in zip(spec.decoder.layer, decoder, strict=True):
        _fill_attention(theirs.self_attention, ours, "self_attention", fused=3)
        _fill_attention(theirs.attention, ours, "cross_attention", fused=1)
        _fill_feed_forward(theirs.ffn, ours)
    return spec


def _attentions(layer: nn.Module) -> list[MultiHeadAttention]:
    names = ("attention",) if isinstance(layer, EncoderLayer) else ("self_attention", "cross_attention")
    blocks = [getattr(layer, name) for name in names]
    for block in blocks:
        plain = isinstance(block, MultiHeadAttention) and block.num_heads == block.num_kv_heads
        if not plain or block.rotary or block.score_bias or block.query_norm or getattr(block, "window", None):
            raise ValueError(f"format: ctranslate2 export supports plain multi-head attention only, got {block}")
    if not isinstance(layer, (EncoderLayer, DecoderLayer)) or type(layer.feed_forward) is not FeedForward:
        raise ValueError(f"format: ctranslate2 export supports EncoderLayer, DecoderLayer and FeedForward, got {layer}")
    return blocks


def _fill_side(spec: Any, table: Any, embedding: nn.Embedding, position: nn.Module, norm: nn.Module) -> None:  # noqa: ANN401
    table.weight = embedding.weight.detach().numpy()
    # Positions of any kind are exported as a table.
    encodings = position(torch.zeros(1, CT2_POSITIONS, embedding.embedding_dim))[0]
    spec.position_encodings.encodings = encodings.detach().numpy()
    if isinstance(norm, nn.LayerNorm):
        _fill_norm(spec.layer_norm, norm)


def _fill_norm(spec: Any, norm: nn.Module) -> None:  # noqa: ANN401
    if not isinstance(norm, nn.LayerNorm):
        raise ValueError(f"format: ctranslate2 export supports LayerNorm only, got {norm}")
    spec.gamma, spec.beta = norm.weight.detach().numpy(), norm.bias.detach().numpy()


def _fill_linear(spec: Any, *layers: nn.Module) -> None:  # noqa: ANN401
    spec.weight = torch.cat([one.get_parameter("weight") for one in layers]).detach().numpy()
    if getattr(layers[0], "bias", None) is not None:
        spec.bias = torch.cat([one.get_parameter("bias") for one in layers]).detach().numpy()


def _fill_attention(spec: Any, layer: nn.Module, name: str, *, fused: int) -> None:  # noqa: ANN401
    projections = [layer.get_submodule(f"{name}.{kind}_proj") for kind in ("query", "key", "value")]
    _fill_linear(spec.linear[0], *projections[:fused])
    if fused == 1:
        _fill_linear(spec.linear[1], *projections[1:])
    _fill_linear(spec.linear[-1], layer.get_submodule(f"{name}.out_proj"))
    _fill_norm(spec.layer_norm, layer.get_submodule(f"{name}_norm"))


def _fill_feed_forward(spec: Any, layer: nn.Module) -> None:  # noqa: ANN401
    _fill_linear(spec.linear_0, layer.get_submodule("feed_forward.up_proj"))
    _fill_linear(spec.linear_1, layer.get_submodule("feed_forward.down_proj"))
    _fill_norm(spec.layer_norm, layer.get_submodule("feed_forward_norm"))


def _check_ct2(system: Seq2Seq, translator: Any) -> None:  # noqa: ANN401
    """Compares log probabilities; a beam would hide small differences or amplify them."""
    (source, lengths, target), _ = system.export_inputs()
    with torch.inference_mode():
        logits = evaluation_view(system)(source, lengths, target).log_softmax(dim=-1)
    own = logits[:, :-1].gather(-1, target[:, 1:, None])[..., 0]
    sources = [system.source_tokenizer.tokens(row[:n].tolist()) for row, n in zip(source, lengths, strict=True)]
    targets = [system.target_tokenizer.tokens(row[1:].tolist()) for row in target]
    for row, scored in zip(own, translator.score_batch(sources, targets), strict=True):
        _check("log probabilities", torch.tensor(scored.log_probs)[: len(row)], row)
