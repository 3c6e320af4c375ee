# Everything from the environment, with a default beside it.
import os

bind = f"0.0.0.0:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", 3))
threads = int(os.getenv("PYTHON_MAX_THREADS", "1"))
reload = os.getenv("WEB_RELOAD", "false").lower() in ("1", "true", "yes")
accesslog = "-" if os.getenv("ACCESS_LOG") else None
