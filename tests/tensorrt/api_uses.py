"""What modules use of Python's ``tensorrt`` (or ``tensorrt_rtx``), found in their source, and what of that the bindings lack.

Types are followed from ``trt.Class(...)`` through assignments, returns, loops and the return types in the bindings' own
docstrings, so nothing has to be listed by hand. Run as a script under a generation's bindings, with source files and further
``Class.member`` as arguments: prints JSON.
"""

import ast
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

MODULE = "<module>"


def signatures(member: Any) -> list[tuple[str, str]]:
    """Every overload's parameter list and return type, from pybind11's docstring."""
    doc = inspect.getdoc(member) or ""
    return re.findall(r"^(?:\d+\. )?\w+\((.*?)\) -> (.+)$", doc, re.MULTILINE)


def parameters(text: str) -> list[tuple[str, bool]]:
    """Name and whether it may be left out, of each parameter but ``self``."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text + ","):
        depth += (character in "[(<") - (character in "])>")
        if character == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    names = [(part.split(":")[0].strip(), "=" in part) for part in parts if part]
    return [item for item in names if item[0] != "self"]


def accepts(member: Any, positional: int, keywords: list[str]) -> bool:
    overloads = [parameters(text) for text, _ in signatures(member)]
    return not overloads or any(
        positional + len(keywords) <= len(names)
        and {*keywords} <= {name for name, _ in names[positional:]}
        and all(optional or name in keywords for name, optional in names[positional:])
        for names in overloads
    )


class Uses(ast.NodeVisitor):
    """Follows TensorRT's objects through source files. A list counts as its elements.

    One name is one kind of object in all of them: what one file makes, the functions of another take under the same name.
    """

    def __init__(self, trt: Any, sources: list[str]) -> None:
        self.trt, trees = trt, [ast.parse(source) for source in sources]
        self.types: dict[str, str] = {"trt": MODULE}
        self.seen: set[str] = set()
        self.missing: set[str] = set()
        for _ in range(4):  # until nothing new is learned: calls may stand above the functions they call
            for tree in trees:
                for node in ast.walk(tree):
                    self.learn(node)
        for tree in trees:
            self.visit(tree)

    def learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self.name(target, self.type_of(node.value))
        elif isinstance(node, ast.AnnAssign) and node.value:
            self.name(node.target, self.type_of(node.value))
        elif isinstance(node, ast.For | ast.comprehension):
            self.name(node.target, self.type_of(node.iter))
        elif isinstance(node, ast.FunctionDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and inner.value and (kind := self.type_of(inner.value)):
                    self.types[f"{node.name}()"] = kind

    def name(self, target: ast.expr, kind: str | None) -> None:
        if kind and isinstance(target, ast.Name | ast.Attribute):
            self.types[target.id if isinstance(target, ast.Name) else target.attr] = kind

    def type_of(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self.types.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.type_of(node.value)
            return f"{owner}.{node.attr}".removeprefix(f"{MODULE}.") if owner == MODULE else self.types.get(node.attr)
        if isinstance(node, ast.Subscript):
            return self.type_of(node.value)
        if isinstance(node, ast.ListComp):
            return self.type_of(node.elt)
        if isinstance(node, ast.IfExp):
            return self.type_of(node.body) or self.type_of(node.orelse)
        return self.type_of_call(node) if isinstance(node, ast.Call) else None

    def type_of_call(self, node: ast.Call) -> str | None:
        if isinstance(node.func, ast.Name):
            return self.types.get(f"{node.func.id}()")
        if not isinstance(node.func, ast.Attribute):
            return None
        if not (owner := self.type_of(node.func.value)):
            return self.types.get(f"{node.func.attr}()")  # a method of ours
        if owner == MODULE:
            return node.func.attr
        returns = [kind for _, kind in signatures(self.member(owner, node.func.attr))]
        found = re.search(r"(\w+)\]?$", returns[0]) if returns else None
        known = {"IParserError": "ParserError"}  # one class goes by its C++ name in docstrings
        return known.get(found[1], found[1] if hasattr(self.trt, found[1]) else None) if found else None

    def member(self, owner: str, attribute: str) -> Any:
        value = self.trt if owner == MODULE else getattr(self.trt, owner, None)
        return getattr(value, attribute, None)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        owner = self.type_of(node.value)
        if isinstance(node.value, ast.Attribute) and self.type_of(node.value.value) == MODULE:
            owner = node.value.attr  # an enum's member
        if owner and not node.attr.startswith("__"):
            self.note(owner, node.attr, self.member(owner, node.attr) is not None)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Attribute) or not (owner := self.type_of(node.func.value)):
            return
        member = self.member(owner, node.func.attr)
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        keywords = [keyword.arg or "" for keyword in node.keywords]
        if member is not None and not starred and not node.func.attr.startswith("__"):
            fits = accepts(member.__init__ if inspect.isclass(member) else member, len(node.args), keywords)
            self.note(owner, f"{node.func.attr}({', '.join(['_'] * len(node.args) + keywords)})", fits)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.generic_visit(node)
        for base in node.bases:
            if kind := self.type_of(base):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("__"):
                        member = self.member(kind, method.name)
                        fits = member is not None and accepts(member, len(method.args.args) - 1, [])
                        self.note(kind, f"{method.name} overridden", fits)

    def note(self, owner: str, use: str, present: bool) -> None:
        text = use if owner == MODULE else f"{owner}.{use}"
        self.seen.add(text)
        if not present:
            self.missing.add(text)


def main() -> None:
    try:
        import tensorrt as trt
    except ModuleNotFoundError:
        import tensorrt_rtx as trt

    files = [argument for argument in sys.argv[1:] if argument.endswith(".py")]
    uses = Uses(trt, [Path(file).read_text() for file in files])
    seen, missing = uses.seen, uses.missing
    for argument in set(sys.argv[1:]) - {*files}:  # Class.member
        owner, _, member = argument.partition(".")
        seen.add(argument)
        missing |= set() if hasattr(getattr(trt, owner, None), member) else {argument}
    print(json.dumps({"version": trt.__version__, "seen": sorted(seen), "missing": sorted(missing)}))


if __name__ == "__main__":
    main()
