"""An executor without a model, which proves that every position it reads holds what the sequence needs."""

from dataclasses import dataclass, field, replace

import numpy as np

from quire.engine.step import DeviceKind, ExecutorInfo, StepPlan, StepResult

VOCAB_SIZE = 7
EOS = 0


def executor_info(
    num_blocks: int = 12, block_size: int = 4, num_slots: int = 4, name: str = "1", windows: tuple[int, ...] = ()
) -> ExecutorInfo:
    """A tiny executor's identity; `name` is its incarnation."""
    info = ExecutorInfo(name, "model", VOCAB_SIZE, 10**6, num_blocks, block_size, num_slots, (EOS,), DeviceKind.GPU)
    return replace(info, cache_windows=windows)


def next_token(tokens: list[int]) -> int:
    """What the imagined model says after these tokens."""
    return hash(tuple(tokens)) // 7 % VOCAB_SIZE


@dataclass
class _Slot:
    tokens: list[int]
    num_computed: int
    tables: list[list[int]]


@dataclass
class SimulatedExecutor:
    """Stores for each position of each block group and prefix that it was computed for, in place of KV."""

    info: ExecutorInfo
    kv: dict[tuple[int, int], int] = field(default_factory=dict)
    slots: dict[int, _Slot] = field(default_factory=dict)

    def execute(self, plan: StepPlan) -> StepResult:
        self._copy(plan)
        for start in plan.starts:
            tables = start.block_table.reshape(len(self.info.cache_groups), -1).tolist()
            self.slots[start.slot] = _Slot(start.token_ids.tolist(), start.num_computed, tables)
        appended = plan.append_blocks.reshape(len(plan.append_slots), len(self.info.cache_groups))
        for slot, blocks in zip(plan.append_slots.tolist(), appended.tolist(), strict=True):
            for table, block in zip(self.slots[slot].tables, blocks, strict=True):
                table.append(block)
        rows = list(zip(plan.context_slots.tolist(), plan.context_tokens.tolist(), strict=True))
        rows += [(slot, 1) for slot in plan.generation_slots.tolist()]
        sampled = [(slot, token) for slot, count in rows if (token := self._compute(slot, count)) is not None]
        slots, tokens = ([pair[i] for pair in sampled] for i in (0, 1))
        return StepResult(plan.step, np.array(slots, np.int32), np.array(tokens, np.int32), 0)

    def _copy(self, plan: StepPlan) -> None:
        """All sources are read before any destination is written."""
        size = range(self.info.block_size)
        pairs = [((target, offset), (source, offset)) for source, target in plan.copies.tolist() for offset in size]
        self.kv.update({target: self.kv[source] for target, source in pairs if source in self.kv})

    def _compute(self, index: int, count: int) -> int | None:
        slot = self.slots[index]
        end = slot.num_computed + count
        assert count > 0
        assert end <= len(slot.tokens), "computes tokens that are not known"
        names = [hash(tuple(slot.tokens[: position + 1])) for position in range(end)]
        for number, (group, table) in enumerate(zip(self.info.cache_groups, slot.tables, strict=True)):
            first = 0 if group.window is None else max(0, slot.num_computed - group.window + 1)
            for position in range(first, end):
                name = hash((number, names[position]))
                place = (table[position // self.info.block_size], position % self.info.block_size)
                assert place[0] >= 0, f"position {position} of slot {index} was let go in group {number}"
                if position < slot.num_computed:
                    assert self.kv.get(place) == name, f"position {position} of slot {index} is not in {place}"
                else:
                    self.kv[place] = name
        slot.num_computed = end
        if end < len(slot.tokens):
            return None
        token = next_token(slot.tokens)
        slot.tokens.append(token)
        return token
