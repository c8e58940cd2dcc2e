"""Metrics as Prometheus reads them, and log lines as a program reads them."""

import io
import json
import logging

import pytest

from weft.telemetry import SERIES_MAX, Log, LogBridge, Metrics


def test_metrics_are_written_in_order_with_help_and_type() -> None:
    metrics = Metrics()
    requests = metrics.counter("b_total", "Requests.", ("route",))
    metrics.gauge("a", "A number.", lambda: 1.5)
    requests.add(1, "x")
    requests.add(2, 'quote " and \\ and \n')
    assert metrics.text() == (
        "# HELP a A number.\n# TYPE a gauge\na 1.5\n"
        "# HELP b_total Requests.\n# TYPE b_total counter\n"
        'b_total{route="quote \\" and \\\\ and \\n"} 2\nb_total{route="x"} 1\n'
    )


def test_a_counter_without_labels_is_there_before_it_is_moved() -> None:
    metrics = Metrics()
    metrics.counter("c_total", "Things.")
    assert "c_total 0\n" in metrics.text()


def test_labels_nobody_bounded_end_in_one_series() -> None:
    metrics = Metrics()
    counter = metrics.counter("c_total", "Things.", ("id",))
    for number in range(SERIES_MAX + 100):
        counter.add(1, str(number))
    assert counter.values["other",] == 100


def test_a_gauge_with_labels_nobody_bounded_shows_no_more_than_a_counter_would() -> None:
    metrics = Metrics()
    ages = {(f"n{number:05}",): float(number) for number in range(SERIES_MAX + 100)}
    metrics.gauges("g", "Things.", ("id",), lambda: ages)
    assert metrics.text().count("\ng{") == SERIES_MAX + 1


def test_a_name_is_registered_once() -> None:
    metrics = Metrics()
    metrics.counter("c_total", "Things.")
    with pytest.raises(AssertionError):
        metrics.gauge("c_total", "Again.", lambda: 0)


def test_a_log_line_is_one_line_of_json() -> None:
    stream = io.StringIO()
    log = Log(stream, lambda: 5, process="test")
    log.info("a thing happened", request_id="r", path=logging)
    log.error("a thing broke", ValueError("why\nnot"))
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["at_ms"], first["level"], first["event"], first["process"]) == (5, "info", "a thing happened", "test")
    assert "ValueError: why\nnot" in second["exception"]


def test_libraries_that_log_are_heard_through_the_same_log() -> None:
    stream = io.StringIO()
    logger = logging.Logger("library")
    logger.addHandler(LogBridge(Log(stream, lambda: 0)))
    logger.info("not worth a line")
    logger.warning("careful")
    try:
        raise RuntimeError("no")
    except RuntimeError:
        logger.exception("failed")
    careful, failed = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (careful["level"], careful["logger"]) == ("warning", "library")
    assert "RuntimeError: no" in failed["exception"]


def test_a_histogram_counts_what_took_at_most_each_of_its_bounds() -> None:
    metrics = Metrics()
    taken = metrics.histogram("weft_x_seconds", "How long.", (0.1, 0.5))
    for seconds in (0.25, 0.1, 4.0, 0.0):
        taken.add(seconds)
    assert metrics.text().splitlines()[1:] == [
        "# TYPE weft_x_seconds histogram",
        'weft_x_seconds_bucket{le="0.1"} 2',
        'weft_x_seconds_bucket{le="0.5"} 3',
        'weft_x_seconds_bucket{le="+Inf"} 4',
        "weft_x_seconds_sum 4.35",
        "weft_x_seconds_count 4",
    ]
