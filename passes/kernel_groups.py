"""Which operations share a kernel: a partition of a graph that never becomes cyclic."""

from __future__ import annotations

import networkx as nx

from mmc.ir.graph import Graph
from mmc.ir.op import Op, producer


class Groups:
    """Every operation that computes is in one group; others (sources, reshapes) are not added."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._order = {op: n for n, op in enumerate(graph.ops)}
        self._leader: dict[Op, Op] = {}
        self._members: dict[Op, list[Op]] = {}

    def add(self, op: Op) -> None:
        self._leader[op] = op
        self._members[op] = [op]

    def __contains__(self, op: Op) -> bool:
        return op in self._leader

    def alone(self, op: Op) -> bool:
        return len(self._members[self._leader[op]]) == 1

    def join(self, left: Op, right: Op) -> None:
        """Put the groups of two operations together."""
        keep, give = self._leader[left], self._leader[right]
        if keep is give:
            return
        moved = self._members.pop(give)
        self._members[keep] += moved
        for op in moved:
            self._leader[op] = keep

    def break_cycles(self) -> None:
        """Take apart the groups that wait for each other."""
        for component in nx.strongly_connected_components(self._quotient()):
            if len(component) > 1:
                for leader in component:
                    for op in self._members.pop(leader, []):
                        self.add(op)

    def in_order(self) -> list[list[Op]]:
        """The groups, producers first, each in the graph's order; a reshape is its own group."""
        quotient = self._quotient()
        key = {
            node: min(self._order[op] for op in self._members.get(node, [node]))
            for node in quotient
        }
        order = nx.lexicographical_topological_sort(quotient, key=key.__getitem__)
        return [
            sorted(self._members.get(node, [node]), key=self._order.__getitem__) for node in order
        ]

    def _quotient(self) -> nx.DiGraph[Op]:
        quotient: nx.DiGraph[Op] = nx.DiGraph()
        for op in self._graph:
            if not op.operands:
                continue
            node = self._leader.get(op, op)
            quotient.add_node(node)
            for value in op.operands:
                maker = self._leader.get(producer(value), producer(value))
                if maker is not node and (maker in self._members or maker.operands):
                    quotient.add_edge(maker, node)
        for op in self._leader:  # operations without operands that compute, such as iota
            quotient.add_node(self._leader[op])
        return quotient
