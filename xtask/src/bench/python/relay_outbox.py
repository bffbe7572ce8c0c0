"""Publishes COUNT rows of python_outbox with confirms and marks them, 100 per commit, never asleep; prints the rate."""

import os
import time

import pika
import psycopg2

QUEUE = "bench.python"
CLAIM = "SELECT id, body FROM python_outbox WHERE published_at IS NULL ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED"

count = int(os.environ["COUNT"])
database = psycopg2.connect(os.environ["DATABASE_URL"])
cursor = database.cursor()
channel = pika.BlockingConnection(pika.URLParameters(os.environ["BROKER_URL"])).channel()
channel.queue_declare(queue=QUEUE, durable=True)
channel.confirm_delivery()

done = 0
start = time.perf_counter()
while done < count:
    cursor.execute(CLAIM)
    rows = cursor.fetchall()
    for key, body in rows:
        properties = pika.BasicProperties(content_type="application/json", delivery_mode=2, message_id=str(key))
        channel.basic_publish("", QUEUE, body, properties, mandatory=True)
        cursor.execute("UPDATE python_outbox SET published_at = now() WHERE id = %s", (key,))
    database.commit()
    done += len(rows)
print(count / (time.perf_counter() - start))
