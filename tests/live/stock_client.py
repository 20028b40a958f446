"""A stock Kafka client of the platform: confluent-kafka and its Avro (de)serialisers, knowing only the registry URL.

Usage: stock_client.py BROKERS REGISTRY_URL RECEIVER_URL. Produces one Request and reads its Plan, Verdict, Outcome and Run back.
"""

import datetime
import sys
import time
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

brokers, registry_url, receiver = sys.argv[1:4]
registry = SchemaRegistryClient({"url": registry_url})
key = f"stock-{uuid.uuid4()}"
request = {
    "tenant": "stock", "actor": "python", "idempotency_key": key, "goal": "probe from a stock client",
    "capsule": "endpoint_probe", "wizard": None, "inputs": {"url": receiver + "/ok"}, "persona": None, "roles": [],
    "autonomy": "SUPERVISED", "budget_usd": None, "requested_at": datetime.datetime.now(datetime.timezone.utc),
}

# The writer's schema is what the registry holds: nothing of ours is imported.
schema = registry.get_latest_version("soma.requests-value").schema.schema_str
serialise = AvroSerializer(registry, schema, conf={"auto.register.schemas": False, "use.latest.version": True})
value = serialise(request, SerializationContext("soma.requests", MessageField.VALUE))
producer = Producer({"bootstrap.servers": brokers})
producer.produce("soma.requests", key=f"stock:{key}", value=value)
if producer.flush(20) != 0:
    sys.exit("the request was not acknowledged")

topics = ["soma.plans", "soma.verdicts", "soma.outcomes", "soma.runs"]
consumer = Consumer({"bootstrap.servers": brokers, "group.id": key, "isolation.level": "read_committed", "enable.auto.commit": False})
wanted = [TopicPartition(t, p, 0) for t in topics for p in consumer.list_topics(t, 20).topics[t].partitions]
consumer.assign(wanted)
deserialise = AvroDeserializer(registry)
seen, run_id, held = {}, None, []
deadline = time.time() + 60
while time.time() < deadline and not (len(seen) == 4 and seen["soma.runs"]["finished_at"] is not None):
    message = consumer.poll(1.0)
    if message is None or message.error():
        continue
    record = deserialise(message.value(), SerializationContext(message.topic(), MessageField.VALUE))
    if message.topic() == "soma.plans" and record["idempotency_key"] == key:
        run_id = record["run_id"]
    held.append((message, record))
    for past, old in held:
        if run_id and old["run_id"] == run_id:
            seen[past.topic()] = old
            names = {name for name, _ in past.headers() or []}
            missing = {"ce_id", "ce_source", "ce_type", "ce_time", "ce_specversion", "traceparent", "soma-tenant"} - names
            if missing:
                sys.exit(f"{past.topic()}: headers {missing} are missing")
    held = [h for h in held if run_id is None]
consumer.close()
if set(seen) != set(topics):
    sys.exit(f"only {sorted(seen)} came back")
verdict, outcome, run = seen["soma.verdicts"], seen["soma.outcomes"], seen["soma.runs"]
if (verdict["decision"], outcome["status"], run["status"]) != ("ALLOW", "SUCCEEDED", "SUCCEEDED"):
    sys.exit(f"verdict {verdict['decision']}, outcome {outcome['status']}, run {run['status']}: {run['reason']}")
if seen["soma.plans"]["steps"][0]["tool"] != "http" or outcome["digest"] != run["steps"][0]["digest"]:
    sys.exit("plan, outcome and run do not agree")
print(f"stock client: run {run['status']} id={run_id} verdict={verdict['decision']} latency_us={outcome['latency_us']}")
