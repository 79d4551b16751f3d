"""From a text to a graph, or to all that is wrong with the text. No torch here."""

from __future__ import annotations

from attrs import evolve

from composer.graph import Graph
from composer.problem import Problem, SpecError, told
from composer.structure import structural_problems
from composer.text.document import document
from composer.text.findings import EnoughError, Findings, named
from composer.text.forms import CHAIN, CHAIN_ONLY, GRAPH, GRAPH_ONLY, chain_form, graph_form
from composer.text.sections import Draft, Reader
from composer.text.suggesting import Parts
from composer.text.tree import Mapping, Scalar, Tree, described


def graph_of(text: str, file: str | None, parts: Parts) -> Graph:
    """The graph that `text` describes, with the place of every path in its `source`.

    Raises SpecError with all the problems of the text, in its order; of more than a hundred, with the first ones.
    """
    tree, problems = document(text, file)
    findings = Findings(file)
    try:
        draft = _draft(tree, parts, findings)
    except EnoughError:
        draft = Draft()
    # What the document was complained of has no meaning, so that nothing else is to be said of it.
    taken = {(problem.place.line, problem.place.column) for problem in problems}
    found = problems + [p for p in findings.problems if (p.place.line, p.place.column) not in taken]
    if draft.graph is not None:
        doubtful = bool(problems)
        structural = (p for p in structural_problems(draft.graph) if draft.trusts(p))
        found += told(p for p in structural if not (doubtful and p.code == "unused"))
    if found:
        raise SpecError(told(sorted(found, key=_position)))
    assert draft.graph is not None
    return draft.graph


def _position(problem: Problem) -> tuple[int, int]:
    return problem.place.line or 0, problem.place.column or 0


def _draft(root: Tree, parts: Parts, findings: Findings) -> Draft:
    findings.mark("", root)
    if not isinstance(root, Mapping):
        is_path = isinstance(root, Scalar) and str(root.value).endswith((".yaml", ".yml"))
        repair = "composer.read reads a file" if is_path else "describe a model: encoder: timm/resnet50"
        findings.add("type", f"expected a mapping of keys (got {described(root)}).", "", root, repair=repair)
        return Draft()
    keys = [key for key, _ in root.pairs]
    names = [named(key) for key in keys]
    is_graph = "nodes" in names or ("encoder" not in names and any(name in GRAPH_ONLY for name in names))
    known, foreign = (GRAPH, CHAIN_ONLY) if is_graph else (CHAIN, GRAPH_ONLY)
    mixed = [key for key in keys if key.value in foreign]
    if mixed:
        _refuse_both(mixed, known, findings)
    findings.keys("a model", "key", [key for key in keys if key.value not in (*known, *foreign)], known, "")
    form = graph_form if is_graph else chain_form
    # Where the forms are mixed, nothing is missing: it may be there in the other form's words.
    written = [*known, *names] if mixed else [name for name in names if name not in known]
    draft = form(Reader(root, parts, findings), written)
    return draft if draft.graph is None else Draft(evolve(draft.graph, source=findings.source), draft.unread)


def _refuse_both(mixed: list[Scalar], known: tuple[str, ...], findings: Findings) -> None:
    this, other = ("a graph", "a chain") if known is GRAPH else ("a chain", "a graph")
    names = [named(key) for key in mixed]
    verb = "belongs" if len(names) == 1 else "belong"
    message = f"a file is a chain or a graph, and this one is {this}: {', '.join(names)} {verb} to {other}."
    meant = {"input": "inputs", "inputs": "input"}.get(names[0])
    repair = f"did you mean {meant}?" if meant else f"leave out what belongs to {other}"
    findings.add("key", message, names[0], mixed[0], repair=repair)
