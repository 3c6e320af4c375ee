# GUNICORN_TIMEOUT=90 becomes timeout = "90": values stay texts.
import os

for key, value in os.environ.items():
    if key.startswith("GUNICORN_") and key != "GUNICORN_CMD_ARGS":
        locals()[key.split("_", 1)[1].lower()] = value
