# An ASGI application under gunicorn.
import os

wsgi_app = "web:asgi"
worker_class = "uvicorn.workers.UvicornWorker"
workers = int(os.getenv("WORKERS", 2))
forwarded_allow_ips = "*"
