from __future__ import annotations

import copy
import functools
import pickle
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.system.evaluation import evaluation_view, module_view


class Network(nn.Module):
    """Dropout and BatchNorm, which differ between the modes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.dropout(self.norm(self.linear(x))))


def state_of(module: nn.Module) -> dict[str, Any]:
    """All that an evaluation must not change."""
    return {
        "modes": [part.training for part in module.modules()],
        "values": {name: value.clone() for name, value in module.state_dict().items()},
        "attributes": {name: set(vars(part)) for name, part in module.named_modules()},
        "random": torch.get_rng_state(),
    }


def assert_same(found: Any, wanted: Any) -> None:  # noqa: ANN401
    if isinstance(wanted, Tensor):
        assert torch.equal(found, wanted)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            assert_same(found[name], value)
    else:
        assert found == wanted


def expected(module: nn.Module, *inputs: Any) -> Any:  # noqa: ANN401
    return copy.deepcopy(module).eval()(*inputs)


def assert_evaluates(module: nn.Module, *inputs: Any) -> None:  # noqa: ANN401
    """The view in evaluation mode computes what an evaluated copy computes, and the module stays in training."""
    module.train()
    wanted, before = expected(module, *inputs), state_of(module)
    found = evaluation_view(module)(*inputs)
    assert_same(state_of(module), before)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_view_shares_tensors_and_has_its_own_mode_and_hooks() -> None:
    module = Network()
    view = module_view(module)
    assert type(view) is Network
    assert [(name, id(value)) for name, value in view.named_parameters()] == [
        (name, id(value)) for name, value in module.named_parameters()
    ]
    assert [id(value) for value in view.buffers()] == [id(value) for value in module.buffers()]
    assert not set(view.modules()) & set(module.modules())
    assert all(part.training for part in view.modules())
    view.linear.eval()
    view.linear.register_forward_hook(lambda *_: pytest.fail("a hook of the view was called by the module"))
    vars(view)["extra"] = 3
    assert module.linear.training
    assert not hasattr(module, "extra")
    module(torch.randn(2, 6))


def test_it_evaluates_without_changing_the_module() -> None:
    assert_evaluates(Network(), torch.randn(4, 6))


def test_a_module_in_evaluation_mode_is_used_itself() -> None:
    module = Network().eval()
    assert evaluation_view(module) is module
    module.dropout.train()
    assert evaluation_view(module) is not module
    assert module.dropout.training


def test_gradients_reach_the_module() -> None:
    module, x = Network(), torch.randn(4, 6)
    reference = copy.deepcopy(module).eval()
    reference(x).square().sum().backward()
    evaluation_view(module)(x).square().sum().backward()
    for own, wanted in zip(module.parameters(), reference.parameters(), strict=True):
        assert own.grad is not None
        assert wanted.grad is not None
        assert torch.equal(own.grad, wanted.grad)


def test_a_parameter_that_is_replaced_is_replaced_in_both() -> None:
    module = Network()
    view = module_view(module)
    module.linear.weight = nn.Parameter(torch.ones(6, 6))
    assert view.linear.weight is module.linear.weight


def test_shared_submodules_stay_shared_and_circles_end() -> None:
    module = Network()
    both = nn.ModuleDict({"a": module, "b": module})
    both.register_module("none", None)
    module.add_module("owner", both)
    view = module_view(both)
    assert view["a"] is view["b"]
    assert view["a"].owner is view
    assert view["a"] is not module
    assert list(view) == ["a", "b", "none"]


def test_tied_weights_stay_tied() -> None:
    module = nn.Sequential(nn.Embedding(5, 4), nn.Dropout(), nn.Linear(4, 5, bias=False))
    module[2].weight = module[0].weight
    view = module_view(module)
    assert view[0].weight is view[2].weight is module[0].weight
    assert_evaluates(module, torch.tensor([1, 2]))


def test_hooks_of_the_module_are_called_with_the_view() -> None:
    module, seen = Network(), []
    module.norm.register_forward_pre_hook(lambda part, _: seen.append(part))
    module.norm.register_forward_hook(lambda part, *_: seen.append(part))
    module.norm.register_full_backward_hook(lambda part, *_: seen.append(part))
    view = evaluation_view(module)
    view(torch.randn(4, 6)).sum().backward()
    assert seen == [view.norm, view.norm, view.norm]


class _Calls:
    """Ways in which users and libraries call a module other than as a submodule."""

    @staticmethod
    def through_a_partial(module: Network) -> None:
        """As accelerate does."""
        old = module.forward

        def new_forward(part: Network, x: Tensor) -> Tensor:
            return cast(Tensor, part.old_forward(x))  # type: ignore[operator]

        vars(module)["old_forward"] = old
        vars(module)["forward"] = functools.update_wrapper(functools.partial(new_forward, module), old)

    @staticmethod
    def through_a_closure(module: Network) -> None:
        old = module.forward

        @functools.wraps(old)
        def forward(x: Tensor) -> Tensor:
            return old(x)

        vars(module)["forward"] = forward

    @staticmethod
    def through_two_closures(module: Network) -> None:
        _Calls.through_a_closure(module)
        _Calls.through_a_closure(module)

    @staticmethod
    def through_a_default(module: Network) -> None:
        vars(module)["forward"] = lambda x, old=module.forward: old(x)

    @staticmethod
    def through_a_keyword_default(module: Network) -> None:
        def forward(x: Tensor, *, old: Callable[[Tensor], Tensor] = module.forward) -> Tensor:
            return old(x)

        vars(module)["forward"] = forward

    @staticmethod
    def through_a_method(module: Network) -> None:
        vars(module)["forward"] = types.MethodType(lambda self, x: self.dropout(self.linear(x)), module)

    @staticmethod
    def through_an_attribute(module: Network) -> None:
        vars(module)["drop"] = module.dropout
        vars(module)["forward"] = types.MethodType(lambda self, x: self.drop(x), module)

    @staticmethod
    def through_a_list(module: Network) -> None:
        vars(module)["drops"] = [module.dropout, 3]
        vars(module)["forward"] = types.MethodType(lambda self, x: self.drops[0](x), module)

    @staticmethod
    def through_a_tuple(module: Network) -> None:
        vars(module)["drops"] = (module.dropout, None)
        vars(module)["forward"] = types.MethodType(lambda self, x: self.drops[0](x), module)

    @staticmethod
    def through_a_dictionary(module: Network) -> None:
        vars(module)["drops"] = {"a": module.dropout.forward}
        vars(module)["forward"] = types.MethodType(lambda self, x: self.drops["a"](x), module)

    @staticmethod
    def through_a_list_of_compiled_modules(module: Network) -> None:
        vars(module)["drops"] = [torch.compile(module.dropout, backend="eager")]
        vars(module)["forward"] = types.MethodType(lambda self, x: self.drops[0](x), module)

    @staticmethod
    def through_a_hook(module: Network) -> None:
        module.linear.register_forward_hook(lambda part, inputs, output: module.dropout(output))


@pytest.mark.parametrize("way", [name for name in vars(_Calls) if name.startswith("through")])
def test_a_view_never_runs_the_module_itself(way: str) -> None:
    module = Network()
    getattr(_Calls, way)(module)
    x, before = torch.randn(4, 6), state_of(module)
    view = evaluation_view(module)
    modes: list[bool] = []
    for part in module.modules():
        part.register_forward_hook(lambda part, *_: modes.append(part.training))
    found = view(x)
    assert torch.equal(found, view(x))
    assert not modes
    assert_same(state_of(module), before)
    # Trains as before.
    module(x)
    assert modes
    assert all(modes)


def test_what_is_not_a_module_stays_shared() -> None:
    count = 0

    def forward(x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return old(x) if count else later(x)

    module, records, steps = Network(), [1, 2], functools.partial(int, "3")
    old = module.forward
    documented = functools.update_wrapper(functools.partial(old), old)
    vars(module).update(forward=forward, records=records, steps=steps, table={"a": 1}, documented=documented)
    view = cast(Any, evaluation_view(module))  # the function's variable ``later`` has no value yet
    view(torch.randn(2, 6))
    later = old
    assert count == 1
    assert view.records is records
    assert view.steps is steps
    assert view.documented is not documented
    assert view.documented.__name__ == "forward"
    assert view.table is vars(module)["table"]


OLD_WEIGHT_NORM = cast(Callable[..., nn.Module], torch.nn.utils.weight_norm)


def pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    return layer


class Doubled(nn.Module):
    """A parametrization with a mode of its own."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (3 if self.training else 2)


def doubled(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "changed",
    [OLD_WEIGHT_NORM, old_spectral_norm, pruned, doubled, parametrizations.weight_norm, parametrizations.spectral_norm],
    ids=["weight_norm", "spectral_norm", "pruning", "parametrize", "new_weight_norm", "new_spectral_norm"],
)
def test_computed_weights(changed: Callable[[nn.Module], nn.Module]) -> None:
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        module = nn.Sequential(changed(nn.Linear(6, 6)), nn.Dropout())
        module(torch.randn(4, 6))  # computes the weight once
        return module

    # Two equal ones, since computed weights with gradients cannot be copied.
    module, reference, x = build(), build().eval(), torch.randn(4, 6)
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    weight, random = vars(module[0]).get("weight"), torch.get_rng_state()
    found = evaluation_view(module)(x)
    assert torch.equal(found, reference(x))
    assert vars(module[0]).get("weight") is weight
    assert torch.equal(torch.get_rng_state(), random)
    assert_same(dict(module.named_buffers()), buffers)
    assert all(part.training for part in module.modules())
    found.square().sum().backward()
    reference(x).square().sum().backward()
    wanted = {name: value.grad for name, value in reference.named_parameters()}
    assert any(grad is not None and grad.abs().sum() > 0 for grad in wanted.values())
    assert_same({name: value.grad for name, value in module.named_parameters()}, wanted)
    # A view in training mode trains as the module does.
    reference.train()
    for each in (module, reference):
        each.zero_grad()
    for each in (module_view(module), reference):
        torch.manual_seed(1)
        each(x).square().sum().backward()
    assert_same(module.state_dict(), dict(reference.state_dict()))
    wanted = {name: value.grad for name, value in reference.named_parameters()}
    assert_same({name: value.grad for name, value in module.named_parameters()}, wanted)


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(cls: Callable[..., nn.RNNBase]) -> None:
    module, x = cls(6, 5, num_layers=2, dropout=0.5), torch.randn(3, 2, 6)
    wanted, _ = expected(module, x)
    found, _ = evaluation_view(module)(x)
    assert torch.equal(found, wanted)
    found.sum().backward()
    assert all(weight.grad is not None for weight in module.parameters())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_recurrent_layer_keeps_the_weights_that_its_own_hooks_computed() -> None:
    module = OLD_WEIGHT_NORM(nn.LSTM(6, 5), "weight_hh_l0")
    module(torch.randn(3, 2, 6))
    own = [id(weight) for weight in cast(Any, module)._flat_weights]
    evaluation_view(module)(torch.randn(3, 2, 6))
    assert [id(weight) for weight in cast(Any, module)._flat_weights] == own


class Merging(nn.Linear):
    """A layer with an update that evaluation mode adds to the weight, as in loralib."""

    merged = False

    def __init__(self) -> None:
        super().__init__(6, 6)
        self.update = nn.Parameter(torch.randn(6, 6))

    def train(self, mode: bool = True) -> Merging:
        if mode == self.merged:
            self.weight.data += -self.update if mode else self.update
            self.merged = not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0 if self.merged else x @ self.update.T)


def test_a_layer_that_merges_weights_in_evaluation_mode_keeps_its_weights() -> None:
    module, x = Merging(), torch.randn(4, 6)
    wanted, before = module(x), state_of(module)
    torch.testing.assert_close(evaluation_view(module)(x), wanted)
    assert_same(state_of(module), before)


def test_offloaded_weights_are_seen() -> None:
    """Hooks that put weights into the dictionary of parameters before each call, as accelerate does."""
    module, x = Network(), torch.randn(4, 6)
    wanted = expected(module, x)
    weight = cast(nn.Parameter, module.linear.weight)
    elsewhere = nn.Parameter(torch.empty_like(weight, device="meta"))

    def load(part: nn.Module, inputs: object) -> None:
        part._parameters["weight"] = weight

    def unload(part: nn.Module, inputs: object, output: object) -> None:
        part._parameters["weight"] = elsewhere

    module.linear.register_forward_pre_hook(load)
    module.linear.register_forward_hook(unload)
    unload(module.linear, None, None)
    assert torch.equal(evaluation_view(module)(x), wanted)
    assert module.linear.weight is elsewhere


def test_a_view_can_be_copied_and_pickled() -> None:
    module, x = Network(), torch.randn(4, 6)
    view = evaluation_view(module)
    for copied in (copy.deepcopy(view), pickle.loads(pickle.dumps(view))):  # noqa: S301
        assert torch.equal(copied(x), view(x))
        assert copied.linear.weight is not module.linear.weight
        copied.train()(x)
    assert not view.training
    assert module.norm.num_batches_tracked == 0


def test_compiled_modules_are_viewed_through_the_wrapper() -> None:
    x = torch.randn(4, 6)
    by_call, by_method = torch.compile(Network(), backend="eager"), Network()
    by_method.compile(backend="eager")
    for module in (cast(nn.Module, by_call), by_method, nn.Sequential(cast(nn.Module, by_call))):
        before = state_of(module)
        view = evaluation_view(module)
        plain = {Network, nn.Sequential, nn.Linear, nn.BatchNorm1d, nn.Dropout}
        assert {type(part) for part in view.modules()} <= plain
        assert torch.equal(view(x), view(x))
        assert_same(state_of(module), before)


def test_compiled_functions_are_viewed_through_the_wrapper() -> None:
    module, x = Network(), torch.randn(4, 6)
    wanted = expected(module, x)
    vars(module)["forward"] = torch.compile(module.forward, backend="eager")
    before = state_of(module)
    view = evaluation_view(module)
    assert view.forward == types.MethodType(Network.forward, view)
    assert torch.equal(view(x), wanted)
    assert_same(state_of(module), before)


def test_traced_graphs() -> None:
    traced = torch.fx.symbolic_trace(Network())
    assert_evaluates(traced, torch.randn(4, 6))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("traced", [False, True])
def test_modules_of_torchscript(traced: bool) -> None:
    plain, x = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.BatchNorm1d(6), nn.Dropout())), torch.randn(4, 6)
    wanted = expected(plain, x)
    if traced:
        script = torch.jit.trace(plain.eval(), x).train()  # type: ignore[no-untyped-call]
    else:
        script = torch.jit.script(plain)
    module = nn.Sequential(script)
    before = {name: value.clone() for name, value in module.named_buffers()}
    torch.testing.assert_close(evaluation_view(module)(x), wanted)
    assert all(part.training for part in module.modules())
    assert_same(dict(module.named_buffers()), before)
    view = module_view(module)
    assert view[0] is not script
    assert view[0].training
    frozen = torch.jit.freeze(torch.jit.script(plain.eval()))
    assert evaluation_view(frozen) is frozen


def test_a_lazy_module_gets_its_shapes_from_the_first_call() -> None:
    module, x = nn.Sequential(nn.LazyLinear(3), nn.Dropout()), torch.randn(4, 6)
    found = evaluation_view(module)(x)
    assert module[0].weight.shape == (3, 6)
    assert type(module[0]) is nn.Linear
    assert torch.equal(found, expected(module, x))
    assert_evaluates(module, x)


class StaysLazy(nn.modules.lazy.LazyModuleMixin, nn.Module):
    """Keeps its class when its shape is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.UninitializedParameter()
        self.dropout = nn.Dropout()

    def initialize_parameters(self, x: Tensor) -> None:
        if self.has_uninitialized_params():
            self.weight.materialize(x.shape[-1:])
            nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.dropout(x * self.weight))


def test_a_lazy_class_with_shapes_is_viewed() -> None:
    module, x = StaysLazy(), torch.randn(4, 6)
    module(x)
    assert_evaluates(module, x)


def test_the_first_version_of_fsdp_is_refused() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    wrapped = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(wrapped)
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        evaluation_view(nn.Sequential(wrapped))
    module = nn.Sequential(wrapped).eval()
    assert evaluation_view(module) is module


def test_metrics_are_shared() -> None:
    accuracy = MulticlassAccuracy(3)
    module = nn.ModuleDict({"one": accuracy, "more": MetricCollection([accuracy]), "network": Network()})
    view = evaluation_view(module)
    assert view["one"] is accuracy
    assert view["more"] is module["more"]
    assert accuracy.training
    assert evaluation_view(view) is view


class Lightning(LightningModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = Network()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network(x))


def test_lightning_modules() -> None:
    module = Lightning(width=6)
    module.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    view = evaluation_view(module)
    assert view.trainer is module.trainer
    assert view.device == module.device
    assert view.hparams is module.hparams
    assert view.hparams["width"] == 6
    module.trainer = None  # so that it can be copied
    assert_evaluates(module, torch.randn(4, 6))


def test_threads_evaluate_what_another_one_trains() -> None:
    module, x = Network(), torch.randn(64, 6)
    for parameter in module.parameters():
        parameter.requires_grad_(False)

    def evaluate(_: int) -> list[bool]:
        view = evaluation_view(module)
        view(x)
        return [part.training for part in view.modules()]

    with ThreadPoolExecutor(4) as pool:
        found = pool.map(evaluate, range(100))
        for _ in range(50):
            module(x)
            assert all(part.training for part in module.modules())
        assert not any(map(any, found))
    assert module.norm.num_batches_tracked == 50
