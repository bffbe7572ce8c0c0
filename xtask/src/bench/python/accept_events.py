"""POST /api/events to a confirmed publish, one connection, as the Python services do it."""

import os
import threading
import uuid

import pika
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

QUEUE = "bench.python"


class Event(BaseModel):
    event_id: uuid.UUID
    user_id: uuid.UUID
    event_type: str
    message: str


app = FastAPI()
connection = pika.BlockingConnection(pika.URLParameters(os.environ["BROKER_URL"]))
channel = connection.channel()
channel.queue_declare(queue=QUEUE, durable=True)
channel.confirm_delivery()
# A blocking connection belongs to one thread at a time.
turn = threading.Lock()


@app.get("/readyz")
def ready():
    return {}


@app.post("/api/events", status_code=202)
def accept(event: Event):
    properties = pika.BasicProperties(
        content_type="application/json", delivery_mode=2, message_id=str(event.event_id), type=event.event_type
    )
    with turn:
        channel.basic_publish("", QUEUE, event.model_dump_json(), properties, mandatory=True)
    return {"message": "Event published successfully", "event_id": str(event.event_id)}


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error", access_log=False)
