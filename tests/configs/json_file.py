# Settings that another program writes.
import json
import os

with open(os.path.join(os.path.dirname(__file__), "json_file.json")) as file:
    globals().update(json.load(file))
