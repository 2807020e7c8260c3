"""Hooks of every kind see what they see of torch's own modules."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)
from torch.nn.utils.rnn import PackedSequence

from tests.ordinary.modules import Case, every_block, every_case, in_both_modes, requiring_gradients, run, tensors

# Not called at each forward pass: it has a cell or a layer for each step or direction.
_SEVERAL_TIMES = (nn.RNNCellBase,)


def own_modules(module: nn.Module) -> dict[str, nn.Module]:
    """All submodules that hold parameters, by name."""
    return {name: part for name, part in module.named_modules() if any(True for _ in part.parameters(recurse=False))}


@every_case
@in_both_modes
def test_every_module_with_parameters_is_called(case: Case, training: bool) -> None:
    module, calls = case.module(training=training), Counter[str]()
    for name, part in own_modules(module).items():
        part.register_forward_hook(lambda _m, _x, _y, name=name: calls.update([name]))
    run(module, case.inputs())
    missing = own_modules(module).keys() - calls.keys()
    assert not missing, f"never called: {sorted(missing)}"


@every_block
@in_both_modes
def test_containers_of_modules_with_parameters_are_called(case: Case, training: bool) -> None:
    """Also modules that hold no parameters themselves, except lists."""
    module, calls = case.module(training=training), set[str]()
    for name, part in module.named_modules():
        part.register_forward_hook(lambda _m, _x, _y, name=name: calls.add(name))
    run(module, case.inputs())
    lists = {name for name, part in module.named_modules() if isinstance(part, nn.ModuleList)}
    with_parameters = {name for name, part in module.named_modules() if any(True for _ in part.parameters())}
    assert with_parameters - lists <= calls


@every_case
@in_both_modes
@pytest.mark.parametrize("batch", [3, 40])
def test_hooks_see_the_whole_batch(case: Case, training: bool, batch: int) -> None:
    """Every input of a layer has a row for each row of the batch, and no layer of a block is called in pieces."""
    inputs = tuple(
        x.repeat(-(-batch // len(x)), *[1] * (x.ndim - 1))[:batch] if isinstance(x, Tensor) else x
        for x in case.inputs()
    )
    module, seen = case.module(training=training), dict[str, list[torch.Size]]()

    def record(name: str, arguments: tuple[Any, ...]) -> None:
        found = [x for x in arguments if isinstance(x, Tensor) and x.ndim > 1]
        if found:
            seen.setdefault(name, []).append(found[0].shape)

    for name, part in own_modules(module).items():
        part.register_forward_pre_hook(lambda _m, x, name=name: record(name, x))
    run(module, inputs)
    for name, shapes in seen.items():
        # The means and the maxima of all images go through one linear layer at once, and the tokens of all sequences
        # through one batch norm.
        whole = all(batch in (shape[0], shape[1]) or shape[0] % batch == 0 for shape in shapes)
        assert whole, (name, shapes)


@every_case
@in_both_modes
def test_recorded_activations_are_not_overwritten(case: Case, training: bool) -> None:
    module, records = case.module(training=training), list[tuple[str, Tensor, Tensor]]()

    def record(name: str, output: object) -> None:
        records.extend((name, x, x.detach().clone()) for x in tensors(output))

    for name, part in module.named_modules():
        part.register_forward_pre_hook(lambda _m, x, name=name: record(f"input of {name}", x))
        part.register_forward_hook(lambda _m, _x, y, name=name: record(f"output of {name}", y))
    with torch.no_grad():
        run(module, case.inputs())
    changed = [name for name, now, then in records if not torch.equal(now, then)]
    assert not changed


@every_case
@in_both_modes
def test_a_changed_output_changes_the_result(case: Case, training: bool) -> None:
    """What a forward hook returns takes the place of the output, at every module with parameters."""
    module, inputs = case.module(training=training), case.inputs()
    seeds = range(4)  # stochastic depth may drop all rows of a branch
    wanted = [x for seed in seeds for x in run(module, inputs, seed)]
    for name, part in own_modules(module).items():
        if name == "":
            continue
        handle = part.register_forward_hook(lambda _m, _x, y: _bent(y))
        found = [x for seed in seeds for x in run(module, inputs, seed)]
        handle.remove()
        assert any(not torch.equal(a, b) for a, b in zip(found, wanted, strict=True)), name


def _bent(output: Any) -> Any:  # noqa: ANN401
    if isinstance(output, Tensor):
        return output.sin() if output.is_floating_point() else output
    if isinstance(output, PackedSequence):
        return output._replace(data=output.data.sin())
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(_bent(part) for part in output))
    if isinstance(output, tuple):
        return tuple(_bent(part) for part in output)
    return output


@every_case
@in_both_modes
def test_full_backward_hooks_fire(case: Case, training: bool) -> None:
    module, fired = case.module(training=training), set[str]()
    parts = {n: p for n, p in own_modules(module).items() if n and not isinstance(p, (nn.RNNBase, *_SEVERAL_TIMES))}

    def note(event: str, *_: object) -> None:
        fired.add(event)

    for name, part in parts.items():
        part.register_full_backward_pre_hook(partial(note, f"before {name}"))
        part.register_full_backward_hook(partial(note, f"after {name}"))
    outputs = [output for output in run(module, requiring_gradients(case.inputs())) if output.requires_grad]
    if outputs:
        torch.autograd.backward(torch.stack([output.sum() for output in outputs]).sum())
    assert fired == {f"{when} {name}" for name in parts for when in ("before", "after")}


@every_case
def test_a_replaced_forward_is_called(case: Case) -> None:
    module, called = case.module(), set[str]()
    parts = {name: part for name, part in own_modules(module).items() if name}
    for name, part in parts.items():

        def forward(*arguments: Any, old: Any = part.forward, name: str = name, **named: Any) -> Any:  # noqa: ANN401
            called.add(name)
            return old(*arguments, **named)

        part.forward = forward  # type: ignore[method-assign, unused-ignore]
    run(module, case.inputs())
    assert called == parts.keys()


@every_case
def test_global_hooks_see_every_module(case: Case) -> None:
    module, forward, before, backward = case.module(), set[nn.Module](), set[nn.Module](), set[nn.Module]()
    handles = [
        register_module_forward_hook(lambda m, _x, _y: forward.add(m)),
        register_module_forward_pre_hook(lambda m, _x: before.add(m)),
    ]
    try:
        run(module, case.inputs())
        handles += [register_module_full_backward_hook(lambda m, _i, _o: backward.add(m))]
        outputs = [output for output in run(module, requiring_gradients(case.inputs())) if output.requires_grad]
        if outputs:
            torch.autograd.backward(torch.stack([output.sum() for output in outputs]).sum())
    finally:
        for handle in handles:
            handle.remove()
    own = set(own_modules(module).values())
    assert own <= forward
    assert own <= before
    assert {part for part in own if isinstance(part, (nn.Linear, nn.Conv2d))} <= backward
