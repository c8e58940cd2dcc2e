"""What a process says of itself: counters and gauges as Prometheus text, and log lines as JSON on stderr.

Names are registered once, with their help, so that a test can hold every metric to be used somewhere. A log line has
the time, the level, what happened as a short phrase, and facts as fields, the request id among them; never a secret.
"""

import json
import logging
import traceback
from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, Final, TextIO

Labels = tuple[str, ...]

PROMETHEUS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SERIES_MAX: Final = 1_024
"""Label values a metric may have. Labels come from routes and statuses; past this somebody labels by request."""


class Counter:
    """A number that only grows, one for each combination of labels."""

    def __init__(self, name: str, help_text: str, labels: Labels) -> None:
        self.name, self.help_text, self.labels = name, help_text, labels
        self.values: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, amount: float = 1, /, *labels: str) -> None:
        """Count."""
        seen = self.values.get(labels)
        if seen is None:
            assert len(labels) == len(self.labels), f"{self.name} is labelled by {self.labels}"
            if len(self.values) >= SERIES_MAX:
                labels = ("other",) * len(self.labels)
            seen = self.values.get(labels, 0)
        self.values[labels] = seen + amount

    def forget(self, place: int, label: str) -> None:
        """Drop every series that has a label at this place: what it counted is no longer there."""
        self.values = {labels: count for labels, count in self.values.items() if labels[place] != label}


class Histogram:
    """How often something took at most so long, for each of a few bounds, and how long in all."""

    def __init__(self, name: str, help_text: str, bounds: tuple[float, ...]) -> None:
        assert list(bounds) == sorted(set(bounds)), "bounds grow"
        self.name, self.help_text, self.bounds = name, help_text, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self) -> list[str]:
        """Its series in the Prometheus text format: each bound counts what the smaller ones do as well."""
        seen = list(accumulate(self.counts))
        spelt = [repr(float(bound)) for bound in self.bounds] + ["+Inf"]
        buckets = [f'{self.name}_bucket{{le="{bound}"}} {count}' for bound, count in zip(spelt, seen, strict=True)]
        return [*buckets, f"{self.name}_sum {_spell(self.total)}", f"{self.name}_count {seen[-1]}"]


class Gauge:
    """A number read when it is asked for."""

    def __init__(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        self.name, self.help_text, self.read = name, help_text, read


class Gauges:
    """Numbers read when they are asked for, one for each combination of labels. Past `SERIES_MAX` none is shown."""

    def __init__(self, name: str, help_text: str, labels: Labels, read: Callable[[], Mapping[Labels, float]]) -> None:
        self.name, self.help_text, self.labels, self.read = name, help_text, labels, read


Metric = Counter | Histogram | Gauge | Gauges
_KINDS: Final[dict[type, str]] = {Counter: "counter", Histogram: "histogram"}


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def counter(self, name: str, help_text: str, labels: Labels = ()) -> Counter:
        """Register a counter. Its name ends in `_total`, after the unit if it has one."""
        counter = Counter(name, help_text, labels)
        self._register(counter)
        return counter

    def histogram(self, name: str, help_text: str, bounds: tuple[float, ...]) -> Histogram:
        """Register a histogram. Its name ends in its unit."""
        histogram = Histogram(name, help_text, bounds)
        self._register(histogram)
        return histogram

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> Gauge:
        """Register a gauge, read by calling."""
        gauge = Gauge(name, help_text, read)
        self._register(gauge)
        return gauge

    def gauges(self, name: str, help_text: str, labels: Labels, read: Callable[[], Mapping[Labels, float]]) -> Gauges:
        """Register a gauge with labels, all read by one call."""
        gauges = Gauges(name, help_text, labels, read)
        self._register(gauges)
        return gauges

    def text(self) -> str:
        """Everything in the Prometheus text format, in order of name."""
        lines: list[str] = []
        for name, metric in sorted(self._metrics.items()):
            kind = _KINDS.get(type(metric), "gauge")
            lines += [f"# HELP {name} {metric.help_text}", f"# TYPE {name} {kind}"]
            if isinstance(metric, Histogram):
                lines += metric.lines()
                continue
            if isinstance(metric, Gauge):
                lines.append(f"{name} {_spell(metric.read())}")
                continue
            series = metric.values if isinstance(metric, Counter) else metric.read()
            lines += [
                f"{name}{_spell_labels(metric.labels, values)} {_spell(count)}"
                for values, count in sorted(series.items())[: SERIES_MAX + 1]
            ]
        return "\n".join(lines) + "\n"

    def _register(self, metric: Metric) -> None:
        assert metric.name not in self._metrics, f"{metric.name} is registered once"
        self._metrics[metric.name] = metric


class Log:
    """Structured lines. The clock is handed in, so that the simulator's lines carry the simulator's time."""

    def __init__(self, stream: TextIO, now_ms: Callable[[], int], **always: Any) -> None:
        self._stream = stream
        self._now_ms = now_ms
        self._always = always

    def info(self, what: str, **fields: Any) -> None:
        """Something happened that an operator may want to know."""
        self._write("info", what, fields)

    def warning(self, what: str, **fields: Any) -> None:
        """Something is wrong and the process goes on."""
        self._write("warning", what, fields)

    def error(self, what: str, error: BaseException | None = None, **fields: Any) -> None:
        """Something failed that was not meant to."""
        if error is not None:
            fields["exception"] = "".join(traceback.format_exception(error))
        self._write("error", what, fields)

    def _write(self, level: str, what: str, fields: dict[str, Any]) -> None:
        line = {"at_ms": self._now_ms(), "level": level, "event": what, **self._always, **fields}
        self._stream.write(json.dumps(line, default=str) + "\n")
        self._stream.flush()


class LogBridge(logging.Handler):
    """Carries the lines of libraries that use `logging` into the structured log."""

    def __init__(self, log: Log, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        error = record.exc_info[1] if record.exc_info else None
        if record.levelno >= logging.ERROR:
            self._log.error(record.getMessage(), error, logger=record.name)
        else:
            self._log.warning(record.getMessage(), logger=record.name)


def _spell(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _spell_labels(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    pairs = (f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
