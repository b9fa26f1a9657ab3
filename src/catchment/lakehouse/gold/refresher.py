"""Gold beside capture: a thread that refreshes gold models under a time budget and never gets in the way.

It has a catalog connection of its own, one DuckDB thread and a memory limit. A failing model is logged and
kept in the status; nothing that happens here stops capture.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from catchment.errors import CatchmentError
from catchment.lakehouse.gold.landing import GoldLayer, ModelStatus
from catchment.lakehouse.gold.model import Model, load_models
from catchment.telemetry import LOGGER

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

    from catchment.lakehouse.config import LakehouseConfig
    from catchment.quality.gate import QualityGate

log = logging.getLogger(LOGGER)


class GoldRefresher:
    """Refreshes gold models while capture runs: `start`, then `stop`, once each; `close` in the end.

    Two refreshes begin at least `interval_seconds` apart, and after one of t seconds there is a pause of at
    least t × (100 / budget_percent − 1), so that gold takes no more of the time than its budget. Without a
    new snapshot nothing runs.
    """

    def __init__(
        self,
        models: Sequence[Model],
        open_catalog: Callable[[], Catalog],
        *,
        interval_seconds: float = 2.0,
        budget_percent: float = 10.0,
        gate: QualityGate | None = None,
    ) -> None:
        self._models = tuple(models)
        self._gate = gate
        self._open_catalog = open_catalog
        self._interval = interval_seconds
        self._budget = min(100.0, max(0.1, budget_percent))
        self._catalog: Catalog | None = None
        self._layer: GoldLayer | None = None
        self._stopping = threading.Event()
        self._working = threading.Lock()
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="catchment-gold", daemon=True)

    @classmethod
    def of(cls, lakehouse: LakehouseConfig, directory: Path, pipeline: str = "") -> GoldRefresher | None:
        """As configured; None without gold models. Raises ConfigError when a model or a quality rule is wrong."""
        from catchment.lakehouse.catalog import load_catalog
        from catchment.quality.gate import QualityGate

        if lakehouse.gold is None:
            return None
        models = load_models(directory / lakehouse.gold)
        if not models:
            return None
        return cls(
            models,
            lambda: load_catalog(lakehouse.catalog, directory),
            interval_seconds=lakehouse.gold_interval_seconds,
            budget_percent=lakehouse.gold_budget_percent,
            gate=QualityGate.of(lakehouse, directory, pipeline),
        )

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def stop(self, timeout: float | None = 10.0) -> None:
        """End: a query that runs now is broken off. What is landed stays as it is. May be called again."""
        self._stopping.set()
        layer = self._layer
        if layer is not None:
            layer.interrupt()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def refresh(self) -> Mapping[str, ModelStatus]:
        """Bring every model up to date now, in the caller's thread, whatever the budget; also after `stop`.

        Raises `Retriable` when the lake cannot be read.
        """
        return self._refresh(None)

    def close(self) -> None:
        """Let go of the catalog, unless a refresh that could not be broken off still needs it. May be called again."""
        if self._catalog is not None and not self._thread.is_alive():
            self._catalog.close()

    def status(self) -> Mapping[str, ModelStatus]:
        """Each model's state after the last refresh. From any thread."""
        layer = self._layer
        return layer.status() if layer is not None else {}

    @property
    def error(self) -> str | None:
        """Why the last refresh could not run at all; None when it could."""
        return self._error

    def pause_after(self, seconds: float) -> float:
        """How long to wait after a refresh that took so many seconds."""
        return max(self._interval - seconds, seconds * (100.0 / self._budget - 1.0))

    def _refresh(self, stopping: threading.Event | None) -> Mapping[str, ModelStatus]:
        with self._working:
            if self._catalog is None:
                self._catalog = self._open_catalog()
            if self._layer is None:
                self._layer = GoldLayer(self._models, self._catalog, gate=self._gate)
            return self._layer.refresh(stopping)

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            started = time.monotonic()
            self._attempt()
            pause = self.pause_after(time.monotonic() - started)

    def _attempt(self) -> None:
        try:
            if self._layer is None or self._error is not None or self._layer.stale():
                self._refresh(self._stopping)
            self._error = None
        except CatchmentError as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, capture goes on
            # The message may come from anywhere and hold anything; the type does not.
            self._failed(f"{type(error).__name__} while gold was refreshed")

    def _failed(self, message: str) -> None:
        if message != self._error and not self._stopping.is_set():
            log.warning("Gold could not be refreshed; it is tried again, capture goes on. %s", message)
        self._error = message
