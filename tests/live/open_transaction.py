"""Holds a transaction open on one partition until its input ends, as a process does that is killed in the middle of one.

Usage: open_transaction.py BROKERS TOPIC PARTITION. Says `open` when a reader of what is committed is held back.
"""

import sys
import uuid

from confluent_kafka import Producer

brokers, topic, partition = sys.argv[1:4]
producer = Producer({"bootstrap.servers": brokers, "transactional.id": f"open-{uuid.uuid4()}", "transaction.timeout.ms": 60000})
producer.init_transactions(20)
producer.begin_transaction()
producer.produce(topic, key="nobody", value=b"nothing", partition=int(partition))
if producer.flush(20):
    sys.exit("the record was not acknowledged")
print("open", flush=True)
sys.stdin.read()
producer.abort_transaction(20)
print("aborted", flush=True)
