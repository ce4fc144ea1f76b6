"""Find residual branches that can be removed: containers that compute activation(skip(x) + branch(x))."""

from __future__ import annotations

from collections.abc import Mapping

from torch.export import ExportedProgram
from torch.fx import Node

from pruner.graph.context import Call, Context, module_path
from pruner.graph.types import Block, Frozen, Group

__all__ = ["find_blocks"]

_ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "silu": "silu",
    "hardswish": "hardswish",
    "gelu": "gelu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "hardsigmoid": "hardsigmoid",
}
_MODULE_ACTIVATIONS = {"hardtanh", "leaky_relu", "elu", "celu", "selu", "mish", "softplus", "dropout"}
# a zero stays a zero through these, so what feeds them may be the tail of a branch
_KEEPS_ZERO = {"mul", "dropout", "feature_dropout", "clone", "contiguous", "relu", "neg", "div"}


class _NoBlockError(Exception):
    """The container is not a residual block that can be removed; the message says why."""


def find_blocks(
    program: ExportedProgram, context: Context, groups: Mapping[str, Group], failed: Mapping[str, str]
) -> tuple[tuple[Block, ...], tuple[Frozen, ...]]:
    """Return the removable residual branches in forward order, and why other additions are not offered.

    ``failed`` maps blocks that a trial refused to the reason.
    """
    inside: dict[str, list[Node]] = {}
    for node in program.graph.nodes:
        if node.op == "call_function":
            for path, _ in (node.meta.get("nn_module_stack") or {}).values():
                inside.setdefault(str(path), []).append(node)
    blocks: list[Block] = []
    notes: list[Frozen] = []
    for node in program.graph.nodes:
        if (
            _name(node) != "add"
            or len(_operands(node)) != 2
            or any(context.is_weight(n) for n in _operands(node))
        ):
            continue
        path = module_path(node)
        try:
            block = _block(path, node, inside, context, groups)
            if path in failed:
                raise _NoBlockError(failed[path])
            blocks.append(block)
        except _NoBlockError as error:
            notes.append(Frozen(path or "the model", f"not a removable block: {error}"))
    return tuple(blocks), tuple(dict.fromkeys(notes))


def _name(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return schema.name.split("::")[-1].rstrip("_") if schema else ""


def _operands(node: Node) -> list[Node]:
    return [argument for argument in node.args if isinstance(argument, Node)]


def _block(
    path: str, add: Node, inside: Mapping[str, list[Node]], context: Context, groups: Mapping[str, Group]
) -> Block:
    if not path:
        raise _NoBlockError("the addition is in the forward of the model itself, not of a module inside it")
    if f"{path}@1" in inside:
        raise _NoBlockError("it is called more than once")
    nodes = inside[path]
    members = set(nodes)
    sources = {
        source
        for node in nodes
        for source in node.all_input_nodes
        if source not in members and source not in context.leaves
    }
    if len(sources) != 1:
        raise _NoBlockError("it has more than one input")
    (source,) = sources
    activation, output = _activation(path, add, members, context)
    left = [node for node in nodes if node is not output and set(node.users) - members]
    if left or not set(output.users) - members:
        raise _NoBlockError("it has more than one output, or goes on after the addition")
    branch_end, skip_end = _split_operands(add, source, members, context)
    branch, skip = _ancestors(branch_end, members), _ancestors(skip_end, members)
    if branch & skip or source in (branch_end,):
        raise _NoBlockError("branch and shortcut share operators")
    if source not in {s for node in branch for s in node.all_input_nodes}:
        raise _NoBlockError("the branch does not read the block's input")
    modules = _skip_modules(path, source, skip, nodes)
    tail = _tail(path, branch_end, branch, inside)
    sites = tuple(site for site in context.sites if site in {module_path(node) for node in branch})
    parameters = {context.leaves[s] for n in branch for s in n.all_input_nodes if s in context.leaves}
    outside = {
        context.leaves[s]
        for node in output.graph.nodes
        if node not in branch
        for s in node.all_input_nodes
        if s in context.leaves
    }
    own = tuple(
        name
        for name, group in groups.items()
        if all(member.parameter in parameters - outside for member in group.members)
    )
    if not sites:
        raise _NoBlockError("the branch has no convolution")
    if not modules and _name(output) == _name(source) == "relu":
        activation = ""  # what comes in is already rectified: a second ReLU would only cost time
    return Block(path, own, sites, tail, modules, activation)


def _activation(path: str, add: Node, members: set[Node], context: Context) -> tuple[str, Node]:
    """Return the activation after ``add`` inside the block, and the node of the block's output."""
    users = list(add.users)
    if not set(users) & members:
        return "", add
    if len(users) != 1:
        raise _NoBlockError("the sum is used more than once inside the block")
    node = users[0]
    if _name(node) not in _ACTIVATIONS and _name(node) not in _MODULE_ACTIVATIONS:
        raise _NoBlockError(f"the sum goes on into {_name(node) or 'another operator'}")
    module = module_path(node)
    if module != path and module in context.modules and not list(context.modules[module].children()):
        return module, node
    if _name(node) not in _ACTIVATIONS:
        raise _NoBlockError(f"its activation {_name(node)} is a function with arguments, not a module")
    call = Call(node)
    if any(
        value not in (None, "none") for key, value in call.arguments.items() if key not in ("self", "input")
    ):
        raise _NoBlockError("its activation has arguments")
    return f"function:{_ACTIVATIONS[_name(node)]}", node


def _ancestors(end: Node, members: set[Node]) -> set[Node]:
    found: set[Node] = set()
    stack = [end]
    while stack:
        node = stack.pop()
        if node in members and node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found


def _split_operands(add: Node, source: Node, members: set[Node], context: Context) -> tuple[Node, Node]:
    """Return (end of the branch, end of the shortcut): the shortcut is the input or has fewer layers."""
    first, second = _operands(add)
    if source in (first, second):
        return (second, first) if first is source else (first, second)

    def layers(end: Node) -> int:
        return sum(
            module_path(node) in context.sites and _name(node) != "batch_norm"
            for node in _ancestors(end, members)
        )

    if layers(first) == layers(second):
        raise _NoBlockError("branch and shortcut have equally many layers")
    return (first, second) if layers(first) > layers(second) else (second, first)


def _skip_modules(path: str, source: Node, skip: set[Node], nodes: list[Node]) -> tuple[str, ...]:
    """Return the child modules that make up the shortcut, in order of their calls."""
    modules: list[str] = []
    previous = source
    ordered = [node for node in nodes if node in skip]
    for node in ordered:
        child = _child(path, node)
        if not child:
            raise _NoBlockError("its shortcut is not a chain of its own submodules")
        if not modules or modules[-1] != child:
            if child in modules or [
                s for s in node.all_input_nodes if s.op != "placeholder" or s is source
            ] != [previous]:
                raise _NoBlockError("its shortcut is not a chain of its own submodules")
            modules.append(child)
        previous = node
    for child in modules:
        if any(_child(path, node) == child and node not in skip for node in nodes):
            raise _NoBlockError(f"{child} is used in the branch and in the shortcut")
    return tuple(modules)


def _child(path: str, node: Node) -> str:
    """Return the direct submodule of ``path`` in which ``node`` runs, or ""."""
    inner = module_path(node)
    if not inner.startswith(path + "."):
        return ""
    paths = [str(p).split("@")[0] for p, _ in node.meta["nn_module_stack"].values()]
    return paths[paths.index(path) + 1]


def _tail(path: str, end: Node, branch: set[Node], inside: Mapping[str, list[Node]]) -> str:
    """Return the last submodule of the branch: when its output is zero the branch is zero."""
    node = end
    while not (child := _child(path, node)):
        before = [source for source in node.all_input_nodes if source in branch]
        if _name(node) not in _KEEPS_ZERO or not before:
            raise _NoBlockError("the end of its branch is not a submodule")
        node = before[-1]
    if not set(inside[child]) <= branch:
        raise _NoBlockError(f"{child}, the end of its branch, is also used outside of it")
    if any(set(other.users) - set(inside[child]) for other in inside[child] if other is not node):
        raise _NoBlockError(f"{child}, the end of its branch, has more than one output")
    return child
