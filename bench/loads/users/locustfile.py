"""Locust: users who read, search and write, each with a short pause. How to run it: bench/README.md.

The application is bench/apps/framework_fastapi.py; an answer that is wrong is a failure, not a fast one.
"""

from locust import FastHttpUser, between, task


class Visitor(FastHttpUser):
    wait_time = between(0.05, 0.2)

    @task
    def item(self) -> None:
        with self.client.get("/items/7?q=licorne", name="/items/[id]", catch_response=True) as answer:
            if answer.status_code != 200 or answer.json() != {"id": 7, "name": "licorne"}:
                answer.failure(f"wrong answer: {answer.text}")
