"""From a text to a graph, or to all that is wrong with the text. No torch here."""

from __future__ import annotations

from attrs import evolve

from composer.graph import Graph
from composer.problem import Problem, SpecError, truncate_problems
from composer.structure import find_structural_problems
from composer.text.document import parse_document
from composer.text.findings import Diagnostics, TooManyProblemsError, get_key_name
from composer.text.forms import CHAIN_KEYS, CHAIN_ONLY_KEYS, GRAPH_KEYS, GRAPH_ONLY_KEYS, parse_chain, parse_graph
from composer.text.sections import PartialGraph, SectionReader
from composer.text.suggesting import Parts
from composer.text.tree import MappingNode, ScalarNode, Tree, describe_value


def parse_spec(text: str, file: str | None, parts: Parts) -> Graph:
    """The graph that `text` describes, with the place of every path in its `source`.

    Raises SpecError with all the problems of the text, in its order; of more than a hundred, with the first ones.
    """
    tree, problems = parse_document(text, file)
    findings = Diagnostics(file)
    try:
        draft = _parse_root(tree, parts, findings)
    except TooManyProblemsError:
        draft = PartialGraph()
    # What the document was complained of has no meaning, so that nothing else is to be said of it.
    taken = {(problem.place.line, problem.place.column) for problem in problems}
    found = problems + [p for p in findings.problems if (p.place.line, p.place.column) not in taken]
    if draft.graph is not None:
        doubtful = bool(problems)
        structural = (p for p in find_structural_problems(draft.graph) if draft.is_reliable(p))
        found += truncate_problems(p for p in structural if not (doubtful and p.code == "unused"))
    if found:
        raise SpecError(truncate_problems(sorted(found, key=_get_sort_key)))
    assert draft.graph is not None
    return draft.graph


def _get_sort_key(problem: Problem) -> tuple[int, int]:
    return problem.place.line or 0, problem.place.column or 0


def _parse_root(root: Tree, parts: Parts, findings: Diagnostics) -> PartialGraph:
    findings.mark("", root)
    if not isinstance(root, MappingNode):
        is_path = isinstance(root, ScalarNode) and str(root.value).endswith((".yaml", ".yml"))
        repair = "composer.read reads a file" if is_path else "describe a model: encoder: timm/resnet50"
        findings.add("type", f"expected a mapping of keys (got {describe_value(root)}).", "", root, repair=repair)
        return PartialGraph()
    keys = [key for key, _ in root.pairs]
    names = [get_key_name(key) for key in keys]
    is_graph = "nodes" in names or ("encoder" not in names and any(name in GRAPH_ONLY_KEYS for name in names))
    known, foreign = (GRAPH_KEYS, CHAIN_ONLY_KEYS) if is_graph else (CHAIN_KEYS, GRAPH_ONLY_KEYS)
    mixed = [key for key in keys if key.value in foreign]
    if mixed:
        _refuse_mixed_forms(mixed, known, findings)
    findings.keys("a model", "key", [key for key in keys if key.value not in (*known, *foreign)], known, "")
    form = parse_graph if is_graph else parse_chain
    # Where the forms are mixed, nothing is missing: it may be there in the other form's words.
    written = [*known, *names] if mixed else [name for name in names if name not in known]
    draft = form(SectionReader(root, parts, findings), written)
    return draft if draft.graph is None else PartialGraph(evolve(draft.graph, source=findings.source), draft.unread)


def _refuse_mixed_forms(mixed: list[ScalarNode], known: tuple[str, ...], findings: Diagnostics) -> None:
    this, other = ("a graph", "a chain") if known is GRAPH_KEYS else ("a chain", "a graph")
    names = [get_key_name(key) for key in mixed]
    verb = "belongs" if len(names) == 1 else "belong"
    message = f"a file is a chain or a graph, and this one is {this}: {', '.join(names)} {verb} to {other}."
    meant = {"input": "inputs", "inputs": "input"}.get(names[0])
    repair = f"did you mean {meant}?" if meant else f"leave out what belongs to {other}"
    findings.add("key", message, names[0], mixed[0], repair=repair)
