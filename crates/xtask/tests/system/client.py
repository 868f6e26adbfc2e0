"""A program that takes part without any of our code: plain JSON over NATS, by the client of its language.

client.py submit     requests each job that it reads, one a line, and prints each outcome
client.py publish    publishes each job that it reads, and asks for no answer
client.py gather N   asks all consumers how they are, and prints the answers of N of them
client.py resize     serves the subject handlers.resize
"""

import asyncio
import json
import os
import sys

import nats
from nats.errors import NoRespondersError

PATIENCE = 60


async def connect():
    async def complain(error):
        # Above all what the server does not permit.
        print(f"error: {error!r}", file=sys.stderr)
        os._exit(1)

    return await nats.connect(
        os.environ["NATS_URL"],
        user=os.environ["NATS_USER"],
        password=os.environ["NATS_PASSWORD"],
        inbox_prefix=os.environ["NATS_INBOX_PREFIX"].encode(),
        error_cb=complain,
    )


async def submit(client):
    for number, job in enumerate(sys.stdin):
        try:
            headers = {"Jobs-Attempt": str(number + 1)}
            reply = await client.request("jobs.create", job.strip().encode(), timeout=PATIENCE, headers=headers)
            print(json.dumps(json.loads(reply.data)))
        except NoRespondersError:
            print(json.dumps("nobody is there"))


async def publish(client):
    for job in sys.stdin:
        await client.publish("jobs.create", job.strip().encode())
    await client.flush()


async def gather(client, count):
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    await client.publish("jobs.status", reply=inbox)
    for _ in range(count):
        answer = await answers.next_msg(timeout=PATIENCE)
        print(json.dumps(json.loads(answer.data)))


async def resize(client):
    async def answer(request):
        payload = json.loads(request.data)
        headers = request.headers or {}
        if "width" not in payload:
            error = {"Nats-Service-Error": "no width", "Nats-Service-Error-Code": "400"}
            await client.publish(request.reply, b"", headers=error)
            return
        result = {"width": payload["width"] // 2, "job": headers["Jobs-Id"], "attempt": headers["Jobs-Attempt"]}
        await request.respond(json.dumps(result).encode())

    await client.subscribe("handlers.resize", queue="resizers", cb=answer)
    await client.flush()
    print("serving", flush=True)
    await asyncio.Event().wait()


async def main():
    client = await connect()
    role, *arguments = sys.argv[1:]
    roles = {"submit": submit, "publish": publish, "gather": gather, "resize": resize}
    await roles[role](client, *map(int, arguments))
    await client.close()


asyncio.run(main())
