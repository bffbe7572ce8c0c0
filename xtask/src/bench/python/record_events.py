"""Reads COUNT events and inserts each as a row of raw_rows, BATCH of them per commit and ack; prints the rate."""

import json
import os
import time

import pika
import psycopg2
from psycopg2.extras import execute_values

QUEUE = "bench.python"
INSERT = (
    "INSERT INTO raw_rows (id, user_id, event_type, message, payload, status, created_at, processed_at)"
    " VALUES %s ON CONFLICT (id) DO NOTHING"
)

count, batch = int(os.environ["COUNT"]), int(os.environ["BATCH"])
database = psycopg2.connect(os.environ["DATABASE_URL"])
cursor = database.cursor()
channel = pika.BlockingConnection(pika.URLParameters(os.environ["BROKER_URL"])).channel()
channel.basic_qos(prefetch_count=max(500, batch))

waiting = []
done = 0
start = None
for method, properties, body in channel.consume(QUEUE):
    start = start or time.perf_counter()
    event = json.loads(body)
    waiting.append((
        event["event_id"], event["user_id"], event["event_type"], event["message"], None, "PROCESSED",
        "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z",
    ))
    done += 1
    if len(waiting) == batch or done == count:
        execute_values(cursor, INSERT, waiting)
        database.commit()
        channel.basic_ack(method.delivery_tag, multiple=True)
        waiting.clear()
    if done == count:
        break
print(count / (time.perf_counter() - start))
