"""Metrics of a real OpenTelemetry SDK, sent as the tests ask for it: to a Collector, or as records without a key.

"tell" tells instruments what a file says, and sends one collection. "stream" has counters that grow, sends a collection
at each interval until a file exists, and then writes its ledger: of each series the number and the sum of the values that
were delivered. Either ends with a code other than 0 if anything was not delivered.
"""

import argparse
import json
import pathlib
import sys
import time

from confluent_kafka import Producer
from opentelemetry.exporter.otlp.json.common.metrics_encoder import encode_metrics as encode_json
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics as encode_proto
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
)
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

ENCODERS = {
    "proto": lambda data: encode_proto(data).SerializeToString(),
    "json": lambda data: json.dumps(encode_json(data).to_dict()).encode(),
}
DELIVERY_LIMIT_S = 60


class KafkaExporter(MetricExporter):
    """Writes each collection as one record without a key."""

    def __init__(self, brokers, topic, encode):
        super().__init__()
        self._producer = Producer({"bootstrap.servers": brokers, "acks": "all", "linger.ms": 0})
        self._topic = topic
        self._encode = encode

    def export(self, metrics_data, timeout_millis=10_000, **kwargs):
        answers = []
        value = self._encode(metrics_data)
        self._producer.produce(self._topic, value=value, on_delivery=lambda error, _: answers.append(error))
        self._producer.flush(DELIVERY_LIMIT_S)
        return MetricExportResult.SUCCESS if answers == [None] else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis=10_000):
        return True

    def shutdown(self, timeout_millis=30_000, **kwargs):
        pass


def exporter_of(args):
    if args.collector:
        return OTLPMetricExporter(endpoint=args.collector, timeout=DELIVERY_LIMIT_S)
    return KafkaExporter(args.brokers, args.topic, ENCODERS[args.encoding])


def send(exporter, data):
    if exporter.export(data) is not MetricExportResult.SUCCESS:
        sys.exit("sdk: a collection was not delivered")


def view_of(instrument):
    """How a histogram of the file is aggregated: with its bounds, or exponentially."""
    if instrument.get("exponential"):
        return View(instrument_name=instrument["name"], aggregation=ExponentialBucketHistogramAggregation())
    bounds = ExplicitBucketHistogramAggregation(boundaries=instrument["bounds"])
    return View(instrument_name=instrument["name"], aggregation=bounds)


def tell(args):
    spec = json.loads(pathlib.Path(args.spec).read_text())
    deltas = dict.fromkeys((Counter, Histogram), AggregationTemporality.DELTA)
    reader = InMemoryMetricReader(preferred_temporality=deltas if spec["delta"] else None)
    provider = MeterProvider(
        metric_readers=[reader],
        resource=Resource.create(spec["resource"]),
        views=[view_of(each) for each in spec["instruments"] if each["kind"] == "histogram"],
        exemplar_filter=AlwaysOnExemplarFilter(),
    )
    meter = provider.get_meter("quorate.tests", "1.2")
    # Exemplars name the span that was current.
    with TracerProvider().get_tracer("quorate.tests").start_as_current_span("told"):
        for each in spec["instruments"]:
            make = getattr(meter, "create_" + each["kind"])
            instrument = make(each["name"], unit=each["unit"], description=each.get("help", ""))
            say = {"gauge": "set", "histogram": "record"}.get(each["kind"], "add")
            for value, attributes in each["told"]:
                getattr(instrument, say)(value, attributes)
    send(exporter_of(args), reader.get_metrics_data())


def stamp_ms(data):
    """The time of a collection, which all of its points have."""
    metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
    stamps = {point.time_unix_nano // 1_000_000 for metric in metrics for point in metric.data.data_points}
    if len(stamps) != 1:
        sys.exit(f"sdk: a collection of {len(stamps)} times")
    return stamps.pop()


def stream(args):
    reader = InMemoryMetricReader()
    resource = Resource.create({"service.name": args.service, "service.instance.id": "0"})
    meter = MeterProvider(metric_readers=[reader], resource=resource).get_meter("quorate.tests")
    counter = meter.create_counter("work.done", unit="{item}")
    exporter, stop = exporter_of(args), pathlib.Path(args.until)
    totals, sums = [0] * args.series, [0] * args.series
    count, last_ms = 0, 0
    while True:
        is_last = stop.exists()
        for series in range(args.series):
            grown = 1 + (series + count) % 7
            counter.add(grown, {"series": str(series)})
            totals[series] += grown
        data = reader.get_metrics_data()
        if stamp_ms(data) <= last_ms:
            sys.exit("sdk: two collections of one millisecond")
        last_ms = stamp_ms(data)
        send(exporter, data)
        count += 1
        for series, total in enumerate(totals):
            sums[series] += total
        if is_last:
            break
        time.sleep(args.interval)
    ledger = {str(series): [count, total] for series, total in enumerate(sums)}
    pathlib.Path(args.ledger).write_text(json.dumps(ledger))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collector", help="URL of a Collector's metrics; else --brokers, --topic, --encoding")
    parser.add_argument("--brokers")
    parser.add_argument("--topic")
    parser.add_argument("--encoding", choices=ENCODERS)
    what = parser.add_subparsers(dest="what", required=True)
    telling = what.add_parser("tell")
    telling.add_argument("spec", help="file with the resource, the temporality, the instruments and what each is told")
    streaming = what.add_parser("stream")
    streaming.add_argument("--service", required=True)
    streaming.add_argument("--series", type=int, required=True)
    streaming.add_argument("--interval", type=float, required=True, help="seconds between two collections")
    streaming.add_argument("--until", required=True, help="file that ends it")
    streaming.add_argument("--ledger", required=True, help="file to write")
    return parser.parse_args()


if __name__ == "__main__":
    ARGS = arguments()
    {"tell": tell, "stream": stream}[ARGS.what](ARGS)
