"""A graph as networkx sees it, for analyses and drawings."""

from __future__ import annotations

import networkx as nx

from mmc.ir.graph import Graph
from mmc.ir.op import Op, producer


def to_networkx(graph: Graph) -> nx.MultiDiGraph[Op]:
    """A node for each operation (attribute `label`), an edge for each use (attribute `type`)."""
    view: nx.MultiDiGraph[Op] = nx.MultiDiGraph(name=graph.name)
    view.add_nodes_from((op, {"label": op.mnemonic}) for op in graph.ops)
    for op in graph.ops:
        view.add_edges_from((producer(v), op, {"type": str(v.type)}) for v in op.operands)
    return view
