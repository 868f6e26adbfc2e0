"""Drives the API with the generated client: submit, wait, follow, list, cancel and replay."""
import sys
from uuid import uuid4

from gen import Client
from gen.api.dead_letters import list_dead_letters, replay_dead_letter
from gen.api.jobs import cancel_job, follow_job, list_jobs, show_job, submit_jobs
from gen.api.system import list_queues
from gen.models import Accepted, Ended, Job, Many, SubmitJobsDelivery

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)

job = Job.from_dict({"kind": "sha256", "payload": {"text": "abc"}})
ended = submit_jobs.sync(client=client, body=job, wait="30s")
assert isinstance(ended, Ended), ended
assert ended.state == "succeeded", ended
assert ended.result["hex"].startswith("ba7816bf"), ended
print("submitted and waited for")

outcome = submit_jobs.sync(client=client, body=job, delivery=SubmitJobsDelivery.CONFIRMED)
assert outcome.status == "succeeded", outcome

both = submit_jobs.sync(client=client, body=[job, job], wait="30s")
assert isinstance(both, Many) and both.accepted == 2, both

shown = show_job.sync(client=client, id=ended.id)
assert shown.state == "succeeded", shown
events = follow_job.sync(client=client, id=ended.id)
assert "event: record" in events and "succeeded" in events, events
print("shown and followed")

page = list_jobs.sync(client=client, kind="sha256", limit=10)
assert str(ended.id) in [str(job.id) for job in page.jobs], page
assert list_queues.sync(client=client) is not None
print("listed")

key = str(uuid4())
later = Job.from_dict({"kind": "echo", "run_at": "2099-01-01T00:00:00Z"})
waiting = submit_jobs.sync(client=client, body=later, idempotency_key=key)
assert isinstance(waiting, Accepted) and not waiting.known, waiting
again = submit_jobs.sync(client=client, body=later, idempotency_key=key)
assert again.id == waiting.id and again.known, again
cancelled = cancel_job.sync(client=client, id=waiting.id)
assert cancelled.state == "cancelled", cancelled
print("cancelled")

failing = Job.from_dict({"kind": "fail", "payload": {"message": "no", "permanent": True}})
dead = submit_jobs.sync(client=client, body=failing, wait="30s")
assert dead.state == "dead", dead
letters = list_dead_letters.sync(client=client, kind="fail")
assert str(dead.id) in [str(letter.id) for letter in letters.letters], letters
replayed = replay_dead_letter.sync(client=client, id=dead.id)
assert replayed is not None, replayed
print("replayed")
