"""The models of one server: chosen by a request's ``model``, opened when first asked for, a few at a time.

Each open model has a scheduler of its own. When another is needed and ``settings.models`` are open, the one
that was asked least recently is closed as soon as it has nothing to do, before the new one is opened. Weights
that open models have in common, such as the LLM under several LoRA runs, are in memory once.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from lalm.inference.engine import Engine
from lalm.inference.speech.recogniser import Whisper
from lalm.models.shared_weights import share_weights
from lalm.serve.async_engine import AsyncEngine
from lalm.serve.error_responses import ModelNotFound
from lalm.serve.jobs import Busy
from lalm.serve.memory import collect_all
from lalm.serve.prometheus import Metrics
from lalm.serve.scheduler import Scheduler
from lalm.serve.settings import Settings

QUIET_S = 5.0  # a model asked so recently may still be decoding somebody's audio
log = logging.getLogger("lalm.serve")


class ModelPool:
    """The open models and how to open the others. The first of ``engine`` and ``others`` is the default."""

    def __init__(
        self,
        engine: Engine,
        others: Mapping[str, Callable[[], Engine]],
        settings: Settings,
        whisper: Callable[[], Whisper] | None = None,
    ) -> None:
        self.settings = settings
        self.whisper = whisper
        self.default = engine.name
        self.others = dict(others)
        self.names = [*dict.fromkeys([engine.name, *others])]
        self.open: OrderedDict[str, AsyncEngine] = OrderedDict()
        self.metrics = Metrics(lambda: [one.scheduler for one in self.open.values()])
        self._asked: dict[str, float] = {}
        self._opening = asyncio.Lock()
        self._add(engine.name, engine)

    def _add(self, name: str, engine: Engine) -> AsyncEngine:
        scheduler = Scheduler(engine, max_rows=self.settings.rows, max_waiting=self.settings.waiting)
        self.open[name] = AsyncEngine(engine, scheduler, self.settings, self.metrics, self.whisper)
        return self.open[name]

    def start(self) -> None:
        """Start the threads of the models that are open."""
        for one in self.open.values():
            one.scheduler.start()

    def close(self) -> None:
        """Finish what is asked and stop."""
        for one in self.open.values():
            one.scheduler.close()

    @property
    def ready(self) -> bool:
        """Whether every open model's thread runs, so that requests are answered."""
        return all(one.scheduler.alive for one in self.open.values())

    def check(self, name: str | None) -> str:
        """The name, or the default for none. Raises ModelNotFound for a model that is not served here."""
        if name is not None and name not in self.names:
            there = " and ".join(f"'{one}'" for one in self.names)
            raise ModelNotFound(f"there is no model '{name[:80]}' here; there is {there}")
        return name or self.default

    async def get(self, name: str | None) -> AsyncEngine:
        """The model of that name, opened if it is not. Raises ModelNotFound, and Busy without a place."""
        name = self.check(name)
        self._asked[name] = time.monotonic()
        if name not in self.open:
            async with self._opening:
                if name not in self.open:
                    await self._make_place()
                    log.info("opening the model '%s'", name)
                    opened = self._add(name, await asyncio.to_thread(self._load, name))
                    opened.scheduler.start()
        self.open.move_to_end(name)
        return self.open[name]

    def _load(self, name: str) -> Engine:
        engine = self.others[name]()
        saved = share_weights(engine.model, [one.engine.model for one in self.open.values()])
        log.info("'%s' has %.0f MB of weights in common with the models that are open", name, saved / 1e6)
        return engine

    async def _make_place(self) -> None:
        """Close what was asked least recently, until one more may be opened."""
        deadline = time.monotonic() + self.settings.open_s
        while len(self.open) >= max(1, self.settings.models):
            idle = [name for name in self.open if name in self.others and self._is_idle(name)]
            if idle:
                closing = self.open.pop(idle[0])
                await asyncio.to_thread(closing.scheduler.close)
                del closing
                collect_all()
            elif time.monotonic() > deadline:
                raise Busy(f"all {len(self.open)} models that may be open are in use: try again later")
            else:
                await asyncio.sleep(0.1)

    def _is_idle(self, name: str) -> bool:
        one = self.open[name]
        return (
            not one.scheduler.busy
            and not one.sessions
            and time.monotonic() - self._asked.get(name, 0) > QUIET_S
        )
